"""Config from the environment: every error at once, and the table behind --help.

Owns every SSE_* variable: its name, default, form and meaning. Reads files that variables name, opens nothing else.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)", re.ASCII)
_SIZE = re.compile(r"(\d+)(B|KiB|MiB|GiB)", re.ASCII)
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_COOKIE = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)  # a token, RFC 6265 section 4.1.1
_PASSWORD = re.compile(r"(://[^/@:]*:).*@")
_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")


class ConfigError(Exception):
    """One or more variables are bad; the message names each, its value and what is accepted."""


def duration(text: str) -> float:
    """Seconds from `500ms`, `15s`, `2m`, `24h`; a bare `0` too. Raises ValueError."""
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError
    return float(match[1]) * _UNITS[match[2]]


def size(text: str) -> int:
    """Bytes from `64KiB`, `64MiB`. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ValueError
    return int(match[1]) * int(_UNITS[match[2]])


def _positive(text: str) -> float:
    if (value := duration(text)) <= 0:
        raise ValueError
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError
    return int(text)


def _counted(text: str) -> int:
    if (value := _count(text)) == 0:
        raise ValueError
    return value


def _listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or _count(port) > 65535:
        raise ValueError
    return host.removeprefix("[").removesuffix("]"), int(port)


def _redis_url(text: str) -> str:
    url = urlsplit(text)
    path = url.path.strip("/")
    if url.scheme not in _SCHEMES or not (path if url.scheme == "unix" else url.netloc.rpartition("@")[2]):
        raise ValueError
    if url.scheme in ("redis", "rediss"):
        _ = url.port  # raises ValueError beyond 65535
        if path and not path.isdigit():
            raise ValueError
    if url.scheme == "redis+sentinel" and not path.partition("/")[0]:
        raise ValueError
    return text


def _http_url(text: str) -> str:
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.netloc:
        raise ValueError
    return text


def _file(text: str) -> str:
    try:
        with open(text, encoding="ascii") as file:
            content = file.read()
    except OSError as error:
        raise ValueError(error.strerror) from None
    if not content.strip():
        raise ValueError("it is empty")
    return content


def _kept_file(text: str) -> str:
    return text if _file(text) else ""  # its path: it is read again and again


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    for origin in origins:
        url = urlsplit(origin)
        if origin != "*" and (not url.scheme or not url.netloc or origin != f"{url.scheme}://{url.netloc}"):
            raise ValueError
    return origins


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def _text(text: str) -> str:
    if not text:
        raise ValueError
    return text


def _cookie(text: str) -> str:
    if _COOKIE.fullmatch(text) is None:
        raise ValueError
    return text


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError
        return text

    return parse


class Variable(NamedTuple):
    """One SSE_* variable: its default as it would be written, its parser, what it accepts, what it is for."""

    default: str
    parse: Callable[[str], Any]
    accepts: str
    help: str


_A_DURATION: Final = "a duration such as 500ms, 15s, 2m, 24h"
_A_DURATION_OR_0: Final = _A_DURATION + ", or 0"

VARIABLES: Final[Mapping[str, Variable]] = {
    "SSE_REDIS_URL": Variable(
        "redis://127.0.0.1:6379/0",
        _redis_url,
        "redis://, rediss://, unix://, redis+sentinel://h1:26379,h2:26379/MASTER/0 or redis+cluster://h1:6379,h2:6379",
        "where the stream is",
    ),
    "SSE_REDIS_PASSWORD_FILE": Variable("", _kept_file, "a readable file", "the password, read at every connect"),
    "SSE_STREAM": Variable("github:sync:events", _text, "a Redis key", "the stream's key"),
    "SSE_LISTEN": Variable("0.0.0.0:8080", _listen, "host:port", "the public address"),
    "SSE_ADMIN_LISTEN": Variable("0.0.0.0:8081", _listen, "host:port", "health and metrics, never through the ingress"),
    "SSE_AUTH": Variable("jwt", _one_of("jwt", "none"), "jwt or none", "whether streams need a token"),
    "SSE_JWT_SECRET": Variable("", str, "a secret", "the HS256 key"),
    "SSE_JWT_PUBLIC_KEY": Variable("", _file, "a readable PEM file", "the RS256, ES256 or EdDSA public key"),
    "SSE_JWKS_URL": Variable(
        "", _http_url, "an http or https URL", "the JSON Web Key Set of the RS256, ES256, EdDSA keys"
    ),
    "SSE_JWT_LEEWAY": Variable("30s", duration, _A_DURATION_OR_0, "how far clocks may be apart: of exp, nbf and iat"),
    "SSE_JWT_ISSUER": Variable("", str, "text", "the iss that a token must have"),
    "SSE_JWT_AUDIENCE": Variable("", str, "text", "the aud that a token must have"),
    "SSE_COOKIE": Variable("sse_token", _cookie, "a cookie name", "the cookie that may carry the token"),
    "SSE_CORS_ORIGINS": Variable(
        "", _origins, "* or origins such as https://app.example.com, comma-separated", "who may read from other origins"
    ),
    "SSE_HEARTBEAT": Variable("15s", _positive, _A_DURATION, "silence after which a heartbeat goes out"),
    "SSE_RETRY": Variable("3s", _positive, _A_DURATION, "the browser's reconnection time, spread by 50 %"),
    "SSE_REPLAY_MAX_EVENTS": Variable("100000", _counted, "a whole number above 0", "events kept in memory for replay"),
    "SSE_REPLAY_MAX_BYTES": Variable("64MiB", size, "a size such as 64KiB, 64MiB", "bytes kept in memory for replay"),
    "SSE_REPLAY_MAX_AGE": Variable(
        "24h", _positive, _A_DURATION, "how much older than the newest event the oldest may be"
    ),
    "SSE_MAX_CONNECTIONS": Variable("20000", _counted, "a whole number above 0", "open streams in all"),
    "SSE_MAX_CONNECTIONS_PER_CLIENT": Variable(
        "0", _count, "a whole number", "open streams of one client (token subject, else address); 0 = no limit"
    ),
    "SSE_MAX_CONNECTION_AGE": Variable(
        "0", duration, _A_DURATION_OR_0, "a stream is closed after this, ± 10 %; 0 = never"
    ),
    "SSE_SLOW_CLIENT_TIMEOUT": Variable(
        "30s", _positive, _A_DURATION, "a client that takes nothing for this long is cut"
    ),
    "SSE_TRUSTED_PROXIES": Variable(
        "",
        _networks,
        "CIDRs such as 10.0.0.0/8, comma-separated",
        "proxies whose X-Forwarded-For or Forwarded is believed",
    ),
    "SSE_DRAIN": Variable("20s", duration, _A_DURATION_OR_0, "open streams are closed over this long at SIGTERM"),
    "SSE_THROTTLE": Variable("on", _one_of("on", "off"), "on or off", "whether frequent progress is thinned out"),
    "SSE_STALLED_AFTER": Variable(
        "5m", duration, _A_DURATION_OR_0, "silence after which an operation counts as stalled; 0 = never"
    ),
    "SSE_UI": Variable("off", _one_of("on", "off"), "on or off", "whether the live page is served at /"),
    "SSE_LOG_LEVEL": Variable(
        "info", _one_of("debug", "info", "warning", "error"), "debug, info, warning or error", "what is logged"
    ),
    "SSE_LOG_FORMAT": Variable("json", _one_of("json", "text"), "json or text", "how a log line is written"),
}


@dataclass(frozen=True, slots=True)
class Config:
    """The settings, parsed: durations in seconds, sizes in bytes. One attribute a variable, in VARIABLES' order."""

    redis_url: str
    redis_password_file: str
    stream: str
    listen: tuple[str, int]
    admin_listen: tuple[str, int]
    auth: str
    jwt_secret: str
    jwt_public_key: str
    jwks_url: str
    jwt_leeway: float
    jwt_issuer: str
    jwt_audience: str
    cookie: str
    cors_origins: tuple[str, ...]
    heartbeat: float
    retry: float
    replay_max_events: int
    replay_max_bytes: int
    replay_max_age: float
    max_connections: int
    max_connections_per_client: int
    max_connection_age: float
    slow_client_timeout: float
    trusted_proxies: tuple[Network, ...]
    drain: float
    throttle: str
    stalled_after: float
    ui: str
    log_level: str
    log_format: str

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> "Config":
        """The settings that `environ` gives. Raises ConfigError that names every bad variable at once."""
        values, errors = dict[str, Any](), list[str]()
        for name, variable in VARIABLES.items():
            text = environ.get(name) or variable.default
            attribute = name.removeprefix("SSE_").lower()
            try:
                values[attribute] = variable.parse(text) if text else _absent(variable)
            except ValueError as error:
                why = f" ({error})" if variable.parse in (_file, _kept_file) else ""
                errors.append(f"{name}={shown(name, text)}{why}: expected {variable.accepts}")
        errors += _auth_errors(environ)
        if errors:
            errors += [f"{name}: unknown variable; see --help" for name in unknown(environ)]
            raise ConfigError("\n".join(errors))
        return cls(**values)


def shown(name: str, text: str) -> str:
    """A variable's value as an error may show it: quoted, without secrets."""
    if name == "SSE_JWT_SECRET":
        return "***"
    return repr(_PASSWORD.sub(r"\1***@", text))


def _absent(variable: Variable) -> Any:
    return variable.parse("") if variable.parse in (_origins, _networks) else ""


def _auth_errors(environ: Mapping[str, str]) -> list[str]:
    if (environ.get("SSE_AUTH") or "jwt") != "jwt":
        return []
    keys = ("SSE_JWT_SECRET", "SSE_JWT_PUBLIC_KEY", "SSE_JWKS_URL")
    given = [key for key in keys if environ.get(key)]
    if len(given) == 1:
        return []
    found = " and ".join(f"{key}={shown(key, environ[key])}" for key in given)
    accepted = f"expected exactly one of {', '.join(keys)}; or SSE_AUTH=none for no tokens at all"
    return [f"{found or 'SSE_AUTH=jwt has no key'}: {accepted}"]


def unknown(environ: Mapping[str, str]) -> list[str]:
    """The SSE_* variables that the gateway doesn't know: most likely typing errors."""
    return sorted(name for name in environ if name.startswith("SSE_") and name not in VARIABLES)


def help() -> str:
    """One line a variable: name, default, meaning, what it accepts."""
    width = max(map(len, VARIABLES))
    return "\n".join(
        f"  {name:{width}}  {variable.help} [{variable.default or 'unset'}]\n  {'':{width}}  {variable.accepts}"
        for name, variable in VARIABLES.items()
    )
