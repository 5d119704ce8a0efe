"""The standard error of whatever a sync died of: one table, by duck typing, so that no client library is imported.

Serves httpx, aiohttp, requests, PyGithub and githubkit exceptions, and git's own stderr. Status codes and messages are
those of GitHub's REST documentation ("Troubleshooting the REST API", "Rate limits") and of its git server (GH001…).
"""

import re
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from gateway.producer.core import STOPPED
from gateway.producer.text import clean, redact

CHAIN_MAX: Final = 20
"""Exceptions looked at, where one was raised for another or holds a group."""


class Rule(NamedTuple):
    """An error is of this `code` when it has one of `statuses` (if any) and says one of `phrases` (if any)."""

    code: str
    says: str
    phrases: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    retryable: bool = False


_LIMIT: Final = "GitHub's rate limit is reached"
_MOVED: Final = "The branch has moved on meanwhile"
_LARGE: Final = "A file is larger than GitHub accepts"
_TOKEN: Final = "The GitHub App's token is not accepted"  # noqa: S105
_ACCESS: Final = "The GitHub App has no access to this repository"
_AWAY: Final = "GitHub can't be reached"

# The first that matches counts: what GitHub says in words goes before the bare status.
RULES: Final = (
    Rule("RATE_LIMIT", _LIMIT, ("rate limit", "abuse detection"), retryable=True),
    Rule("RATE_LIMIT", _LIMIT, statuses=(429,), retryable=True),
    Rule("REPO_ARCHIVED", "The repository is archived and read-only", ("archived",)),
    Rule("FILE_TOO_LARGE", _LARGE, ("GH001", "large files? detected", "file size limit", "too large", "over 100 ?MB")),
    Rule("FILE_TOO_LARGE", _LARGE, statuses=(413,)),
    Rule(
        "BRANCH_PROTECTED",
        "The branch is protected",
        (
            "GH006",
            "GH013",
            "protected branch",
            "rule violations",
            "made through a pull request",
            "required status check",
        ),
    ),
    Rule(
        "NOT_FAST_FORWARD",
        _MOVED,
        (
            "not a fast.?forward",
            "non-fast-forward",
            "fetch first",
            "tip of your current branch is behind",
            "cannot lock ref",
            "is at [0-9a-f]{7,} but expected",
            "reference cannot be updated",
            "does not match [0-9a-f]{7,}",
        ),
        retryable=True,
    ),
    Rule("NOT_FAST_FORWARD", _MOVED, statuses=(409,), retryable=True),
    Rule("INVALID_INSTALLATION", "The GitHub App's installation is suspended", ("suspended",)),
    Rule(
        "APP_UNINSTALLED",
        "The GitHub App was uninstalled",
        (
            "installation .{0,40}(deleted|removed|not found|no longer)",
            "could not find installation",
            "integration not found",
            "app .{0,20}uninstalled",
        ),
    ),
    Rule("APP_UNINSTALLED", "The GitHub App was uninstalled", ("access_tokens", "access-token-for-an-app"), (404,)),
    Rule("APP_NOT_INSTALLED", _ACCESS, ("repository not found", "repository .{0,200}not found", "not installed")),
    Rule(
        "INSUFFICIENT_PERMISSIONS",
        "The GitHub App lacks a permission that this needs",
        (
            "not accessible by (integration|personal access token)",
            "permission to .{0,200} denied",
            "write access to repository not granted",
            "must have (admin|push|write)",
            "refusing to allow a GitHub App",
        ),
    ),
    Rule(
        "INVALID_INSTALLATION",
        _TOKEN,
        (
            "bad credentials",
            "authentication failed",
            "invalid username or",
            "could not read (username|password)",
            "JSON web token",
            "token .{0,20}expired",
        ),
    ),
    Rule("INVALID_INSTALLATION", _TOKEN, statuses=(401,)),
    Rule(
        "UPSTREAM_UNAVAILABLE",
        _AWAY,
        (
            "could not resolve host",
            "name resolution",
            "getaddrinfo",
            "timed? ?out",
            "connection (was )?(refused|reset|closed|aborted)",
            "early eof",
            "hung up unexpectedly",
            "unexpected disconnect",
            "network is unreachable",
            r"HTTP 5\d\d",
            r"returned error: 5\d\d",
            "failed to connect",
            "ssl.{0,20}(error|eof)",
            "internal server error",
            "bad gateway",
            "service unavailable",
        ),
        retryable=True,
    ),
    Rule("APP_NOT_INSTALLED", _ACCESS, statuses=(404,)),
    Rule("INSUFFICIENT_PERMISSIONS", "GitHub forbids this", statuses=(403,)),
)
_COMPILED = tuple((rule, re.compile("|".join(rule.phrases), re.IGNORECASE)) for rule in RULES)
_NETWORK: Final = re.compile(
    r"Timeout|ConnectionError|ConnectError|ReadError|WriteError|NetworkError|TransportError|RemoteProtocolError|"
    r"ServerDisconnected|ClientOSError|ClientConnector|ChunkedEncodingError|ProtocolError|RequestError|gaierror"
)
_INSTALL: Final = frozenset({"APP_NOT_INSTALLED", "APP_UNINSTALLED"})
_SETTINGS: Final = frozenset({"INSUFFICIENT_PERMISSIONS", "INVALID_INSTALLATION"})


def github_error(
    exception: BaseException,
    *,
    base_url: str = "https://github.com",
    app_slug: str | None = None,
    step: str | None = None,
    now: float | None = None,
) -> dict[str, Any]:
    """The standard error: `error`, `error_code`, `retryable`, and where they apply `retryAfter` (s), `recoveryUrl`,
    `details`. Never raises, whatever it is given; tokens are redacted. `now`: epoch seconds, for X-RateLimit-Reset.
    What is no Exception stopped the sync: it was cancelled, interrupted or exited.
    """
    if not isinstance(exception, Exception):
        return dict(STOPPED)
    looked = [_look(each) for each in _chain(exception)]
    headers, text, (code, retryable, says) = next((each for each in looked if each[2][0] != "UNKNOWN"), looked[0])
    error: dict[str, Any] = {"error": says, "error_code": code, "retryable": retryable}
    after = _retry_after(headers, time.time() if now is None else now) if retryable else None
    if after is not None:
        error["retryAfter"] = after
    base = base_url.rstrip("/")
    if code in _INSTALL and app_slug:
        error["recoveryUrl"] = f"{base}/apps/{app_slug}/installations/new"
    elif code in _SETTINGS | _INSTALL:
        error["recoveryUrl"] = f"{base}/settings/installations"
    details = {"originalError": clean(text), "step": step}
    error["details"] = {name: value for name, value in details.items() if value}
    return error


def _chain(exception: BaseException) -> list[BaseException]:
    """The exception, those of its group, and what it was raised for, as far as that is known."""
    found: list[BaseException] = []
    waiting = [exception]
    while waiting and len(found) < CHAIN_MAX:
        each = waiting.pop(0)
        if any(each is known for known in found):
            continue
        found.append(each)
        inside = list(each.exceptions) if isinstance(each, BaseExceptionGroup) else []
        behind = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
        waiting += [*inside, *([behind] if behind is not None else [])]
    return found


def _look(exception: BaseException) -> tuple[Mapping[str, str], str, tuple[str, bool, str]]:
    """Its headers, its words, and what they mean."""
    try:
        status, headers, text = _status(exception), _headers(exception), _text(exception)
    except Exception as odd:  # a foreign exception whose own attributes raise
        status, headers, text = None, {}, f"{type(exception).__name__} ({type(odd).__name__} while reading it)"
    return headers, text, _classify(exception, status, headers, text)


def _classify(
    exception: BaseException, status: int | None, headers: Mapping[str, str], text: str
) -> tuple[str, bool, str]:
    if status in (403, 429) and (headers.get("x-ratelimit-remaining") == "0" or "retry-after" in headers):
        return "RATE_LIMIT", True, _LIMIT
    if status is not None and status >= 500:
        return "UPSTREAM_UNAVAILABLE", True, "GitHub has trouble of its own"
    for rule, pattern in _COMPILED:
        if (not rule.statuses or status in rule.statuses) and pattern.search(text):
            return rule.code, rule.retryable, rule.says
    names = " ".join(kind.__name__ for kind in type(exception).__mro__[:-2])
    if status is None and (isinstance(exception, (TimeoutError, ConnectionError)) or _NETWORK.search(names)):
        return "UPSTREAM_UNAVAILABLE", True, _AWAY
    return "UNKNOWN", False, f"The sync failed: {redact(text).strip().splitlines()[0][:200] if text.strip() else names}"


def _status(exception: BaseException) -> int | None:
    response = getattr(exception, "response", None)
    for holder in (response, exception):
        for name in ("status_code", "status", "code"):
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
                return int(value)
    return None


def _headers(exception: BaseException) -> dict[str, str]:
    response = getattr(exception, "response", None)
    for holder in (response, exception):
        headers = getattr(holder, "headers", None)
        if headers:
            return {str(name).lower(): str(value) for name, value in dict(headers).items()}
    return {}


def _text(exception: BaseException) -> str:
    """What the exception says, what GitHub's body says, and what git wrote, one after the other."""
    parts = [str(exception)]
    response = getattr(exception, "response", None)
    for holder, names in (
        (exception, ("data", "stderr", "output", "message")),
        (response, ("text", "content", "body")),
    ):
        for name in names:
            value = getattr(holder, name, None)
            if isinstance(value, bytes):
                value = value.decode("utf-8", "replace")
            if isinstance(value, (str, dict)) and value and str(value) not in parts[0]:
                parts.append(str(value))
    return "\n".join(part for part in parts if part) or type(exception).__name__


def _retry_after(headers: Mapping[str, str], now: float) -> int | None:
    after, reset = headers.get("retry-after", ""), headers.get("x-ratelimit-reset", "")
    if after.isascii() and after.isdigit():
        return int(after)
    if reset.isascii() and reset.isdigit():
        return max(1, int(reset) - int(now))
    return None
