"""Entry ids, the first table, and the golden frames."""

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway import frame, members
from gateway.event import EntryId, Rejected, decode, format_id, parse_id, valid_id
from tests.eventsource import Parser

GOLDEN = json.loads((Path(__file__).parent / "testdata" / "golden.json").read_text(encoding="utf-8"))
U64 = st.integers(0, 2**64 - 1)


def fields(entry: dict[str, str]) -> list[bytes]:
    return [part.encode() for pair in entry.items() for part in pair]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden["name"])
def test_golden_entries_become_golden_frames(golden: dict) -> None:
    id = parse_id(golden["id"])
    event = frame.seal(decode(id, fields(golden["fields"])))
    assert frame.unchunk(event.frame).decode() == golden["frame"]
    [message] = Parser().feed(frame.unchunk(event.frame))
    assert (message.type, message.last_event_id) == (event.type, golden["id"])
    assert json.loads(frame.data(event.frame)) == message.json


@given(U64, U64, U64, U64)
def test_ids_compare_as_redis_compares_and_survive_the_round_trip(ms: int, seq: int, ms2: int, seq2: int) -> None:
    one, two = EntryId(ms << 64 | seq), EntryId(ms2 << 64 | seq2)
    assert (one < two) == ((ms, seq) < (ms2, seq2))
    assert parse_id(format_id(one)) == one


@pytest.mark.parametrize(
    "text", ["", "1", "1-", "-1", "1-1-1", "01-1", "1-01", "+1-1", "1 -1", "١-1", "1-1\n", f"{2**64}-0"]
)
def test_what_is_no_entry_id_is_none(text: str) -> None:
    assert parse_id(text) is None


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_are_an_event_or_rejected_and_never_break_the_framing(type: bytes, data: bytes) -> None:
    for entry in ([b"type", type, b"data", data], [b"type", b"a", b"data", data]):
        try:
            event = frame.seal(decode(EntryId(1), entry))
        except Rejected as rejected:
            assert rejected.reason in {"type", "data", "json", "operation_id", "project_id", "timestamp", "too_large"}
        else:
            assert frame.unchunk(event.frame).count(b"\n") == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5), st.booleans())
def test_data_reaches_the_browser_as_it_was_written(extra: dict, ascii: bool) -> None:
    data = extra | {"operationId": "o", "projectId": "p", "timestamp": "t"}
    event = frame.seal(
        decode(
            EntryId(1), [b"type", b"a", b"data", json.dumps(data, ensure_ascii=ascii).encode("utf-8", "surrogatepass")]
        )
    )
    [message] = Parser().feed(frame.unchunk(event.frame))
    assert json.loads(message.data) == data


def test_deep_nesting_is_rejected_not_a_crash() -> None:
    for depth in (200, 300, 900, 1100, 30_000):
        data = f'{{"operationId":"o","projectId":"p","x":{"[" * depth}{"]" * depth}}}'
        entry = [b"type", b"a", b"data", data.encode()]
        if depth < 1000:
            frame.seal(decode(EntryId(1), entry))
        else:
            with pytest.raises(Rejected):
                frame.seal(decode(EntryId(1), entry))


def test_what_is_said_twice_is_routed_as_it_is_read() -> None:
    data = b'{"operationId":"mine","operationId":"yours","projectId":"p","projectId":"q","percent":1,"percent":2}'
    event = decode(EntryId(1), [b"type", b"github_sync_progress", b"data", data])
    assert (event.operation, event.project, event.data["percent"]) == ("yours", "q", 2)
    sent = json.loads(frame.data(frame.seal(event, 7).frame))  # as JSON.parse takes it, the last of each
    assert (sent["operationId"], sent["projectId"], sent["percent"]) == ("yours", "q", 7)


def test_64_kib_is_the_last_size_that_passes() -> None:
    def entry(size: int) -> list[bytes]:
        head = b'{"operationId":"o","projectId":"p","x":"'
        data = head + b"y" * (size - len(head) - 2 - len(b"typeadata")) + b'"}'
        return [b"type", b"a", b"data", data]

    assert sum(map(len, entry(65536))) == 65536
    decode(EntryId(1), entry(65536))
    with pytest.raises(Rejected, match="65536"):
        decode(EntryId(1), entry(65537))


@given(st.text(max_size=300))
def test_valid_ids_are_short_and_hold_no_control_character(text: str) -> None:
    import unicodedata

    assert valid_id(text) == (0 < len(text) <= 256 and not any(unicodedata.category(c) == "Cc" for c in text))


@given(st.lists(st.binary(max_size=20)))
def test_unchunk_undoes_chunk(blocks: list[bytes]) -> None:
    assert frame.unchunk(b"".join(map(frame.chunk, blocks))) == b"".join(blocks)


@pytest.mark.parametrize(
    "name", ["open", "error", "message", "heartbeat", "refused", "replay_gap", "operation_stalled"]
)
def test_names_that_eventsource_or_the_gateway_uses_are_no_types(name: str) -> None:
    data = b'{"operationId":"o","projectId":"p"}'
    with pytest.raises(Rejected, match=name) as raised:
        decode(EntryId(1), [b"type", name.encode(), b"data", data])
    assert raised.value.reason == "type"


RAW = [
    '{"operationId":"o","projectId":"p","timestamp":"t","n":123456789012345678901234567890,"f":1.0,"z":-0,"e":1e400}',
    '{ "timestamp" : "t",\t"projectId":"p" , "operationId":"o","s":"\\u00e9 \\/ \\ud83d\\ude00" }  ',
    '{"z":{"percent":1,"timestamp":null},"operationId":"o","projectId":"p","timestamp":"t","a":[{"percent":2}]}',
]


@pytest.mark.parametrize("raw", RAW)
def test_data_passes_byte_for_byte(raw: str) -> None:
    event = frame.seal(decode(EntryId(1), [b"type", b"a", b"data", raw.encode()]))
    assert frame.data(event.frame) == raw.encode()


def test_only_line_breaks_between_tokens_go() -> None:
    raw = b'{\r\n "operationId":"o",\n "projectId":"p",\r "timestamp":"t","text":"a\\nb" }\n'
    event = frame.seal(decode(EntryId(1), [b"type", b"a", b"data", raw]))
    assert frame.data(event.frame) == b'{ "operationId":"o", "projectId":"p", "timestamp":"t","text":"a\\nb" }'


@pytest.mark.parametrize("raw", RAW)
@pytest.mark.parametrize("name", ["projectId", "timestamp", "new"])
def test_a_member_is_put_without_touching_another(raw: str, name: str) -> None:
    put = (members.add if name == "new" else members.put)(raw.encode(), name, b'"new"')
    assert json.loads(put, parse_int=str, parse_float=str) == json.loads(raw, parse_int=str, parse_float=str) | {
        name: "new"
    }
    rest = [each for key, each in members.members(raw.encode()).items() if key != name]
    assert [each for key, each in members.members(put).items() if key != name] == rest


@given(st.dictionaries(st.text(max_size=8), JSON, min_size=1, max_size=5), st.booleans(), st.data())
def test_members_are_what_json_says(data: dict, ascii: bool, drawn: st.DataObject) -> None:
    name = drawn.draw(st.sampled_from(sorted(data)))
    raw = json.dumps(data, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    assume(b"\\ud" not in raw and b"\xed" not in raw)
    assert {key: json.loads(value) for key, value in members.members(raw).items()} == data
    assert json.loads(members.put(raw, name, b"[1]")) == data | {name: [1]}


def test_looking_for_members_takes_linear_time() -> None:
    """As steps of the scanner: one a token, whatever the text."""
    for hostile in (b'"' + b'\\"' * 20_000 + b'"', b"[" * 20_000 + b"]" * 20_000, b'"a' + b"\\\\" * 20_000 + b'"'):
        raw = b'{"x":' + hostile + b',"percent":1}'
        assert members.members(raw)["percent"] == b"1"


@pytest.mark.parametrize("between", ["\n", "\r", '"', "\\", "x", "\0"])
def test_a_timestamp_can_break_nothing(between: str) -> None:
    entry = [b"type", b"a", b"data", b'{"operationId":"o","projectId":"p"}']
    with pytest.raises(Rejected) as raised:
        decode(EntryId(1), [*entry, b"timestamp", f"2025-11-24{between}16:00:00Z".encode()])
    assert raised.value.reason == "timestamp"


def test_numbers_stay_whole_beside_half_a_surrogate_pair() -> None:
    raw = b'{"operationId":"o","projectId":"p","seq":12,"attempt":3,"big":123456789012345678901234567890,"m":"\\ud83d"}'
    data = decode(EntryId(1), [b"type", b"a", b"data", raw]).data
    assert (data["seq"], data["attempt"], type(data["seq"])) == (12, 3, int)
