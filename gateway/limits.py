"""Admission: how many streams in all, how many of one client, and who a client is behind trusted proxies."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Final

from gateway.config import Network

# The elements of a Forwarded header, whose quoted words may hold commas; and of each, what `for` says (RFC 7239).
_HOPS: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^",])+')
_FOR: Final = re.compile(r'(?i)(?:.*;)?\s*for=("[^"]*"|[^;]*).*', re.DOTALL)


class Limits:
    """Counts open streams against SSE_MAX_CONNECTIONS and SSE_MAX_CONNECTIONS_PER_CLIENT (0 = no limit)."""

    def __init__(self, total: int, per_client: int) -> None:
        self._total = total
        self._per_client = per_client
        self._open = 0
        self._clients: Counter[str] = Counter()

    def admit(self, client: str) -> int:
        """Takes a place for `client` and answers 0; or answers the status that refuses it: 429 or 503."""
        if self._open >= self._total:
            return 503
        if self._per_client:
            if self._clients[client] >= self._per_client:
                return 429
            self._clients[client] += 1
        self._open += 1
        return 0

    def release(self, client: str) -> None:
        """Gives the place back."""
        self._open -= 1
        if self._per_client:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]


def client_address(peer: str, headers: Mapping[str, Sequence[str]], trusted: Sequence[Network]) -> str:
    """The address of the client: `peer`, or where that is a trusted proxy, the last address that no trusted proxy
    stands for, of the X-Forwarded-For header lines among `headers` (by name), or where there are none, of the Forwarded
    ones (RFC 7239). What is not an address ends the search.
    """
    lines = headers.get("X-Forwarded-For", ())
    hops = [hop.strip() for line in lines for hop in line.split(",")]
    if not lines:
        hops = [_FOR.sub(r"\1", hop) for line in headers.get("Forwarded", ()) for hop in _HOPS.findall(line)]
    address = peer
    while hops and _is_trusted(address, trusted):
        hop = _bare(hops.pop())
        try:
            ip_address(hop)
        except ValueError:
            break
        address = hop
    return address


def _bare(hop: str) -> str:
    """Without the quotes, the brackets and the port that proxies write around an address."""
    hop = hop.strip().strip('"')
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in trusted)
