"""What a worker's words become before they leave it: without secrets, encodable, bounded. Pure; never raises."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

TEXT_MAX: Final = 2000
LIST_MAX: Final = 200
DEPTH_MAX: Final = 4
INTEGER_MAX: Final = 2**53

_TOKENS: Final = (
    (re.compile(r"(https?://)[^/\s@'\"]+@"), r"\1***@"),
    (re.compile(r"(?i)(https?%3A%2F%2F)(?:[^\s/%]|%(?!40|2F))+%40"), r"\1***%40"),
    (re.compile(r"(?:gh[pousr]_|github_pat_)\w+"), "***"),
    (re.compile(r"(?i)\b(bearer|token|basic)\s+[\w.~+/=-]{8,}"), r"\1 ***"),
)
_WORD: Final = re.compile(r"[\w.-]+")
_KEY: Final = re.compile(r"-----(BEGIN|END) [A-Z ]{1,40}-----")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")


def redact(text: str) -> str:
    """`text` without secrets: user info of URLs, GitHub's token forms, Authorization values, JWTs, PEM blocks.

    In time linear in its length.
    """
    for pattern, replacement in _TOKENS:
        text = pattern.sub(replacement, text)
    if "eyJ" in text:
        text = _WORD.sub(_without_jwt, text)
    return _without_keys(text) if "-----BEGIN " in text else text


def clean(text: object, most: int = TEXT_MAX) -> str:
    """Anything as text that can be shown and encoded: redacted, cut, lone surrogates as U+FFFD."""
    try:
        said = str(text)
    except Exception as error:  # a __str__ of somebody else's
        said = f"{type(text).__name__} ({type(error).__name__} while reading it)"
    # Cut before it is redacted a secret could lose the beginning that tells; what is far longer is not looked at.
    shown = redact(_SURROGATE.sub("\ufffd", said[: most * 8]))
    return shown if len(shown) <= most and len(said) <= most * 8 else shown[: most - 1] + "…"


def identifier(value: object, most: int) -> str:
    """An id that the gateway accepts: a queue may number its jobs, a file system has names that are no text."""
    return _CONTROL.sub("\ufffd", _SURROGATE.sub("\ufffd", str(value)))[:most]


def plain(value: Any, texts: int = TEXT_MAX, items: int = LIST_MAX, depth: int = 0) -> Any:
    """Anything as JSON has it, with texts and lists of bounded length."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < INTEGER_MAX else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) or depth >= DEPTH_MAX:
        return clean(value, texts)
    try:
        if isinstance(value, Mapping):
            some = list(value.items())[:items]
            return {clean(name, 100): plain(each, texts, items, depth + 1) for name, each in some}
        if isinstance(value, Iterable):
            return [plain(each, texts, items, depth + 1) for each, _ in zip(value, range(items), strict=False)]
    except Exception as error:
        return f"{type(value).__name__} ({type(error).__name__} while reading it)"
    return clean(value, texts)


def _without_jwt(word: re.Match[str]) -> str:
    """A word without what is shaped like a JWT in it, which always begins with `{"` in base64."""
    text, begin = word[0], word[0].find("eyJ")
    return text[:begin] + "***" if begin >= 0 and text.count(".", begin) >= 2 else text


def _without_keys(text: str) -> str:
    kept, at, inside = [], 0, False
    for mark in _KEY.finditer(text):
        if mark[1] == "BEGIN" and not inside:
            kept.append(text[at : mark.start()] + "***")
            inside = True
        elif mark[1] == "END" and inside:
            at, inside = mark.end(), False
    return "".join(kept) + ("" if inside else text[at:])
