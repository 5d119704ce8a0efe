"""The members of a JSON object as bytes: found, replaced and added without writing the rest anew.

What a worker wrote passes byte for byte; only what has to be added or changed is written here. Pure, and only for text
that is known to be a JSON object (RFC 8259): it never checks.
"""

import re
from collections.abc import Iterator
from typing import Final

import orjson

_TOKEN: Final = re.compile(rb'"(?:[^"\\]+|\\.)*"|[][{}:,]', re.DOTALL)


def spans(text: bytes) -> Iterator[tuple[str, int, int]]:
    """Each member's name, and where its value begins and ends in `text`, in order; a name that comes twice, twice."""
    depth = start = 0
    name, last = None, b""
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in b"{[":
            depth += 1
        elif depth == 1:
            if mark == b":":
                name, start = orjson.loads(last), token.end()
            elif mark in b",}" and name is not None:
                yield name, start, token.start()
                name = None
            last = mark
        if mark in b"}]":
            depth -= 1


def members(text: bytes) -> dict[str, bytes]:
    """Every member's value as it was written; of a name that comes twice the last, as JSON.parse has it."""
    return {name: text[start:end].strip() for name, start, end in spans(text)}


def add(text: bytes, name: str, value: bytes) -> bytes:
    """The object with one more member at its end; it must not be empty, nor have one of this name."""
    end = text.rindex(b"}")
    return b'%b,"%b":%b%b' % (text[:end].rstrip(), name.encode(), value, text[end:])


def put(text: bytes, name: str, value: bytes) -> bytes:
    """The object with the value of `name` replaced wherever it stands."""
    found = [(start, end) for each, start, end in spans(text) if each == name]
    parts: list[bytes] = []
    at = 0
    for start, end in found:
        parts += text[at:start], value
        at = end
    return b"".join((*parts, text[at:]))
