"""Request ids and the W3C trace context: taken over where they hold, and then in the log lines of the request."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.trace import identify
from tests.conftest import Gateway

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"  # the example of W3C Trace Context, section 3.2.4


@pytest.mark.parametrize("header", [PARENT, f"00-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01-what-comes-later"])
def test_a_valid_traceparent_is_taken_over(header: str) -> None:
    found = identify({"traceparent": header})
    assert (found["trace_id"], found["span_id"]) == (TRACE, SPAN)


@pytest.mark.parametrize(
    "header",
    [
        "",
        PARENT + "-more",
        PARENT.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"cc-{TRACE}-{SPAN}-01.more",
    ],
)
def test_an_invalid_traceparent_is_left_out(header: str) -> None:
    assert identify({"traceparent": header}).keys() == {"request_id"}


@given(st.text())
def test_a_request_id_is_short_and_plain_or_made_anew(header: str) -> None:
    id = identify({"X-Request-ID": header})["request_id"]
    assert id.isascii()
    assert id.isprintable()
    assert 0 < len(id) <= 128
    assert id != identify({})["request_id"]


async def test_they_are_in_the_log_lines_and_the_answer(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "gateway")
    sent = {"X-Request-ID": "abc-1", "traceparent": PARENT}
    async with gateway.stream("/api/projects/p-1/stream", headers=sent) as stream:
        assert stream.response.headers["X-Request-ID"] == "abc-1"
    await gateway.metric_reaches(1, "connections_closed_total", reason="client")
    refused = await gateway.get("/api/nothing", X_Request_ID="abc-2")
    assert refused.headers["X-Request-ID"] == "abc-2"
    lines = {each.message: vars(each) for each in caplog.records if each.levelno == logging.DEBUG}
    assert sorted(lines) == ["request refused", "stream closed"], "one line a connection"
    assert lines["stream closed"]["request_id"] == "abc-1"
    assert lines["request refused"]["request_id"] == "abc-2"
    assert lines["stream closed"]["trace_id"] == TRACE
    assert lines["stream closed"]["reason"] == "client"
    assert lines["request refused"]["status"] == 404
