"""Settings: one bad variable an error, all errors at once, every default as the contract says."""

import pytest

from gateway import config
from gateway.config import VARIABLES, Config, ConfigError

NONE = {"SSE_AUTH": "none"}
BAD = {
    "SSE_REDIS_URL": ["http://h", "redis://", "redis://h/notadb", "redis+sentinel://h1", "unix://", "redis://h:99999"],
    "SSE_LISTEN": ["8080", ":8080", "h:", "h:99999", "h:http"],
    "SSE_ADMIN_LISTEN": ["nonsense"],
    "SSE_AUTH": ["maybe"],
    "SSE_JWT_PUBLIC_KEY": ["/no/such/file"],
    "SSE_JWKS_URL": ["ftp://h/x", "keys"],
    "SSE_COOKIE": ["a b", "a;b"],
    "SSE_CORS_ORIGINS": ["app.example.com", "https://a/path"],
    "SSE_HEARTBEAT": ["0", "15", "-1s", "1d", "s", "1e3s"],
    "SSE_RETRY": ["0s"],
    "SSE_REPLAY_MAX_EVENTS": ["0", "1.5", "-1", "many", "٣"],
    "SSE_REPLAY_MAX_BYTES": ["64", "64MB", "0MiB"],
    "SSE_REPLAY_MAX_AGE": ["0s"],
    "SSE_MAX_CONNECTIONS": ["0"],
    "SSE_MAX_CONNECTIONS_PER_CLIENT": ["-1"],
    "SSE_MAX_CONNECTION_AGE": ["soon"],
    "SSE_SLOW_CLIENT_TIMEOUT": ["0s"],
    "SSE_TRUSTED_PROXIES": ["10.0.0.1/8", "proxy"],
    "SSE_DRAIN": ["20"],
    "SSE_THROTTLE": ["yes"],
    "SSE_STALLED_AFTER": ["never"],
    "SSE_UI": ["yes"],
    "SSE_LOG_LEVEL": ["loud"],
    "SSE_LOG_FORMAT": ["xml"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_named_with_what_is_accepted(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(NONE | {name: value})
    [line] = [line for line in str(caught.value).splitlines() if line.startswith(name)]
    assert repr(value) in line
    assert VARIABLES[name].accepts in line


def test_every_bad_variable_is_named_at_once_and_secrets_are_masked() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(
            {
                "SSE_HEARTBEAT": "x",
                "SSE_DRAIN": "y",
                "SSE_JWT_SECRET": "hush",
                "SSE_JWKS_URL": "https://h/k",
                "SSE_REDIS_URL": "redis://u:pa:ss@h/x",
            }
        )
    message = str(caught.value)
    assert [line.partition("=")[0] for line in message.splitlines()] == [
        "SSE_REDIS_URL",
        "SSE_HEARTBEAT",
        "SSE_DRAIN",
        "SSE_JWT_SECRET",
    ]
    assert "hush" not in message
    assert "pa:ss" not in message


def test_jwt_is_the_default_and_needs_a_key() -> None:
    with pytest.raises(ConfigError, match="SSE_AUTH=jwt has no key"):
        Config.load({})
    assert Config.load({"SSE_JWT_SECRET": "s"}).auth == "jwt"


def test_the_defaults_are_the_contracts() -> None:
    defaults = Config.load(NONE)
    assert (defaults.redis_url, defaults.stream) == ("redis://127.0.0.1:6379/0", "github:sync:events")
    assert (defaults.listen, defaults.admin_listen) == (("0.0.0.0", 8080), ("0.0.0.0", 8081))
    assert (defaults.heartbeat, defaults.retry, defaults.slow_client_timeout, defaults.drain) == (15, 3, 30, 20)
    assert (defaults.replay_max_events, defaults.replay_max_bytes, defaults.replay_max_age) == (
        100_000,
        64 << 20,
        86400,
    )
    assert (defaults.max_connections, defaults.max_connections_per_client, defaults.max_connection_age) == (
        20_000,
        0,
        0,
    )
    assert (defaults.throttle, defaults.stalled_after, defaults.cookie) == ("on", 300, "sse_token")


def test_good_values_are_read() -> None:
    settings = Config.load(
        NONE
        | {
            "SSE_REDIS_URL": "redis+sentinel://u:p@h1:26379,h2:26379/main/0",
            "SSE_LISTEN": "[::1]:9000",
            "SSE_HEARTBEAT": "500ms",
            "SSE_REPLAY_MAX_BYTES": "64KiB",
            "SSE_CORS_ORIGINS": "https://a.example, http://localhost:3000",
            "SSE_TRUSTED_PROXIES": "10.0.0.0/8, ::1/128",
            "SSE_MAX_CONNECTION_AGE": "1.5h",
        }
    )
    assert settings.listen == ("::1", 9000)
    assert (settings.heartbeat, settings.replay_max_bytes, settings.max_connection_age) == (0.5, 65536, 5400)
    assert settings.cors_origins == ("https://a.example", "http://localhost:3000")
    assert len(settings.trusted_proxies) == 2


def test_an_empty_variable_counts_as_unset_and_an_unknown_one_is_found() -> None:
    assert Config.load(NONE | {"SSE_HEARTBEAT": ""}).heartbeat == 15
    assert config.unknown({"SSE_HEARTBEET": "1", "SSE_DRAIN": "1s", "PATH": "x"}) == ["SSE_HEARTBEET"]


def test_config_has_one_attribute_a_variable() -> None:
    assert list(Config.__dataclass_fields__) == [name.removeprefix("SSE_").lower() for name in VARIABLES]
