"""Entry ids, the first table, and the golden frames."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import frame
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
    assert message.json == frame.data(event.frame)


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
    # JavaScript reads every number as a double, and so may the gateway.
    assert json.loads(message.data, parse_int=float) == json.loads(json.dumps(data), parse_int=float)


def test_deep_nesting_is_rejected_not_a_crash() -> None:
    for depth in (200, 300, 1100, 30_000):
        data = f'{{"operationId":"o","projectId":"p","x":{"[" * depth}{"]" * depth}}}'
        entry = [b"type", b"a", b"data", data.encode()]
        if depth == 200:
            frame.seal(decode(EntryId(1), entry))
        else:
            with pytest.raises(Rejected):
                frame.seal(decode(EntryId(1), entry))


def test_what_is_said_twice_is_routed_as_it_is_read() -> None:
    data = b'{"operationId":"mine","operationId":"yours","projectId":"p","projectId":"q","percent":1,"percent":2}'
    event = decode(EntryId(1), [b"type", b"github_sync_progress", b"data", data])
    assert (event.operation, event.project, event.percent) == ("yours", "q", 2)
    sent = frame.seal(event).frame
    assert b"mine" not in sent
    assert sent.count(b"operationId") == 1


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
