"""Admission, and who a client is behind proxies it can't lie about."""

import ipaddress

import pytest

from gateway.limits import Limits, client_address

TRUSTED = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "fd00::/8")))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.9", ["1.2.3.4"], "192.0.2.9"),  # not a trusted proxy: what it says counts for nothing
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),  # the left part is the client's own word
        ("10.0.0.1", ["6.6.6.6", "1.2.3.4, 10.0.0.2"], "1.2.3.4"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["junk, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("", ["1.2.3.4"], ""),
    ],
)
def test_the_client_is_the_last_address_no_trusted_proxy_stands_for(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert client_address(peer, {"X-Forwarded-For": forwarded}, TRUSTED) == client


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({"X-Forwarded-For": ["1.2.3.4:50001"]}, "1.2.3.4"),  # Azure's gateways add the port
        ({"X-Forwarded-For": ["[2001:db8::7]:443"]}, "2001:db8::7"),
        ({"X-Forwarded-For": ["[2001:db8::7]"]}, "2001:db8::7"),
        ({"X-Forwarded-For": ['"1.2.3.4"']}, "1.2.3.4"),
        ({"X-Forwarded-For": ["1.2.3.4:50001, 10.0.0.2:80"]}, "1.2.3.4"),
        ({"Forwarded": ["for=1.2.3.4;proto=http;by=10.0.0.9"]}, "1.2.3.4"),
        ({"Forwarded": ['proto=https; For="[2001:db8::7]:4711"']}, "2001:db8::7"),
        ({"Forwarded": ["for=6.6.6.6, for=1.2.3.4", "for=10.0.0.2"]}, "1.2.3.4"),
        ({"Forwarded": ['for="6.6.6.6, 1.2.3.4"']}, "10.0.0.1"),  # one quoted word, and no address
        ({"Forwarded": ["for=_hidden, for=10.0.0.2"]}, "10.0.0.2"),
        ({"Forwarded": ["for=unknown"]}, "10.0.0.1"),
        ({"X-Forwarded-For": ["1.2.3.4"], "Forwarded": ["for=5.6.7.8"]}, "1.2.3.4"),
        ({}, "10.0.0.1"),
    ],
)
def test_ports_quotes_and_the_other_header_are_understood(headers: dict[str, list[str]], client: str) -> None:
    assert client_address("10.0.0.1", headers, TRUSTED) == client


def test_places_are_counted_and_given_back() -> None:
    limits = Limits(3, 2)
    assert [limits.admit("a"), limits.admit("a"), limits.admit("a")] == [0, 0, 429]
    assert [limits.admit("b"), limits.admit("c")] == [0, 503]
    limits.release("a")
    assert [limits.admit("a"), limits.admit("b")] == [0, 503]
    for client in "aab":
        limits.release(client)
    assert not limits._clients
    assert limits._open == 0
