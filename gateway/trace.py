"""Who a request is in the log: its request id, and the trace that it belongs to. Never makes a span of its own."""

import random
import re
from collections.abc import Mapping
from typing import Final

_REQUEST_ID: Final = re.compile(r"[\w.:+/=@-]{1,128}", re.ASCII)
# W3C Trace Context, section 3.2: version 00 has four fields, a later one may have more, and ff is none.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.ASCII
)


def identify(headers: Mapping[str, str]) -> dict[str, str]:
    """The members that a request's log lines have: `request_id`, from X-Request-ID or made anew where that is missing
    or odd; `trace_id` and `span_id` of the caller, where `traceparent` is valid.
    """
    request_id, traceparent = headers.get("X-Request-ID", ""), headers.get("traceparent", "")
    known = request_id and _REQUEST_ID.fullmatch(request_id)
    found = {"request_id": request_id if known else f"{random.getrandbits(128):032x}"}
    parent = _TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    if parent is not None and not (parent[1] == "00" and parent[4]):
        found |= {"trace_id": parent[2], "span_id": parent[3]}
    return found
