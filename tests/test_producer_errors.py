"""Real shapes of GitHub's and git's errors, as httpx, aiohttp, requests, PyGithub and subprocess raise them."""

import json
import socket
import subprocess
from typing import Any

import pytest

from gateway import schema
from gateway.producer import github_error
from gateway.producer.core import Attempt, Sync
from gateway.producer.outbox import Entry

DOCS = "https://docs.github.com/rest"


class Response:
    def __init__(self, status: int, message: str = "", headers: dict[str, str] | None = None) -> None:
        self.status_code = status
        self.headers = headers or {}
        self.text = json.dumps({"message": message, "documentation_url": DOCS}) if message else ""


class HTTPStatusError(Exception):  # httpx, requests (HTTPError), githubkit (RequestFailed)
    def __init__(self, status: int, message: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(f"Client error '{status}' for url 'https://api.github.com/repos/o/r/git/refs'")
        self.response = Response(status, message, headers)


class ClientResponseError(Exception):  # aiohttp
    def __init__(self, status: int, message: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{status}, message={message!r}, url='https://api.github.com/x'")
        self.status, self.message, self.headers = status, message, headers or {}


class GithubException(Exception):  # PyGithub
    def __init__(self, status: int, message: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{status} {json.dumps({'message': message})}")
        self.status, self.data, self.headers = status, {"message": message}, headers or {}


class Octokit(Exception):
    """Says nothing but its status."""

    def __init__(self, status: int) -> None:
        super().__init__("request failed")
        self.status_code = status


def git(stderr: str) -> subprocess.CalledProcessError:
    return subprocess.CalledProcessError(1, ["git", "push"], stderr=stderr)


def named(name: str, base: type[Exception] = Exception) -> Exception:
    return type(name, (base,), {})("")


R, D = True, False
HTTP: list[tuple[int, str, str, bool]] = [
    (401, "Bad credentials", "INVALID_INSTALLATION", D),
    (401, "", "INVALID_INSTALLATION", D),
    (401, "A JSON web token could not be decoded", "INVALID_INSTALLATION", D),
    (401, "'Expiration time' claim ('exp') must be a numeric value: token has expired", "INVALID_INSTALLATION", D),
    (403, "Resource not accessible by integration", "INSUFFICIENT_PERMISSIONS", D),
    (403, "Resource not accessible by personal access token", "INSUFFICIENT_PERMISSIONS", D),
    (403, "Must have admin rights to Repository.", "INSUFFICIENT_PERMISSIONS", D),
    (403, "", "INSUFFICIENT_PERMISSIONS", D),
    (403, "This installation has been suspended", "INVALID_INSTALLATION", D),
    (403, "API rate limit exceeded for installation ID 12345.", "RATE_LIMIT", R),
    (403, "You have exceeded a secondary rate limit. Please wait a few minutes.", "RATE_LIMIT", R),
    (403, "You have triggered an abuse detection mechanism.", "RATE_LIMIT", R),
    (403, "Repository was archived so is read-only.", "REPO_ARCHIVED", D),
    (403, "Protected branch update failed: changes must be made through a pull request.", "BRANCH_PROTECTED", D),
    (404, "Not Found", "APP_NOT_INSTALLED", D),
    (404, "Integration not found", "APP_UNINSTALLED", D),
    (404, "Could not find installation 99", "APP_UNINSTALLED", D),
    (409, "Git Repository is empty.", "NOT_FAST_FORWARD", R),
    (409, "main.txt does not match 4b825dc642cb6eb9a060e54bf8d69288fbee4904", "NOT_FAST_FORWARD", R),
    (413, "", "FILE_TOO_LARGE", D),
    (422, "Update is not a fast forward", "NOT_FAST_FORWARD", R),
    (422, "Reference cannot be updated", "NOT_FAST_FORWARD", R),
    (422, "Protected branch rules not configured for this branch", "BRANCH_PROTECTED", D),
    (422, "Repository rule violations found: Changes must be made through a pull request.", "BRANCH_PROTECTED", D),
    (422, "Sorry, your input was too large to process.", "FILE_TOO_LARGE", D),
    (422, "Validation Failed", "UNKNOWN", D),
    (429, "Too many requests", "RATE_LIMIT", R),
    (451, "Repository access blocked", "UNKNOWN", D),
    (500, "Internal Server Error", "UPSTREAM_UNAVAILABLE", R),
    (502, "Server Error", "UPSTREAM_UNAVAILABLE", R),
    (503, "", "UPSTREAM_UNAVAILABLE", R),
    (504, "We couldn't respond to your request in time.", "UPSTREAM_UNAVAILABLE", R),
]
GIT: list[tuple[str, str, bool]] = [
    ("remote: error: GH006: Protected branch update failed for refs/heads/main.", "BRANCH_PROTECTED", D),
    ("remote: error: GH013: Repository rule violations found for refs/heads/main.", "BRANCH_PROTECTED", D),
    ("remote: error: GH001: Large files detected. You may want to try Git Large File Storage", "FILE_TOO_LARGE", D),
    (
        "remote: error: File big.bin is 120.00 MB; this exceeds GitHub's file size limit of 100.00 MB",
        "FILE_TOO_LARGE",
        D,
    ),
    (" ! [rejected]        main -> main (non-fast-forward)", "NOT_FAST_FORWARD", R),
    (" ! [rejected]        main -> main (fetch first)", "NOT_FAST_FORWARD", R),
    ("hint: Updates were rejected because the tip of your current branch is behind", "NOT_FAST_FORWARD", R),
    ("remote: error: cannot lock ref 'refs/heads/main': is at 1234567 but expected 89abcde", "NOT_FAST_FORWARD", R),
    ("remote: This repository was archived so it is read-only.\nfatal: error: 403", "REPO_ARCHIVED", D),
    (
        "remote: Repository not found.\nfatal: repository 'https://github.com/o/r.git/' not found",
        "APP_NOT_INSTALLED",
        D,
    ),
    ("remote: Permission to o/r.git denied to app[bot].", "INSUFFICIENT_PERMISSIONS", D),
    ("remote: Write access to repository not granted.\nerror: 403", "INSUFFICIENT_PERMISSIONS", D),
    ("! [remote rejected] refusing to allow a GitHub App to create or update workflow", "INSUFFICIENT_PERMISSIONS", D),
    (
        "remote: Invalid username or token.\nfatal: Authentication failed for 'https://github.com'",
        "INVALID_INSTALLATION",
        D,
    ),
    ("fatal: could not read Username for 'https://github.com': terminal prompts disabled", "INVALID_INSTALLATION", D),
    ("fatal: unable to access: Could not resolve host: github.com", "UPSTREAM_UNAVAILABLE", R),
    ("fatal: unable to access: Failed to connect to github.com port 443", "UPSTREAM_UNAVAILABLE", R),
    ("error: RPC failed; HTTP 502 curl 22 The requested URL returned error: 502", "UPSTREAM_UNAVAILABLE", R),
    ("fatal: the remote end hung up unexpectedly", "UPSTREAM_UNAVAILABLE", R),
    ("fetch-pack: unexpected disconnect while reading sideband packet\nfatal: early EOF", "UPSTREAM_UNAVAILABLE", R),
    ("ssh: connect to host github.com port 22: Connection timed out", "UPSTREAM_UNAVAILABLE", R),
    ("fatal: not a git repository", "UNKNOWN", D),
]
NETWORK: list[Exception] = [
    TimeoutError(),
    ConnectionResetError("Connection reset by peer"),
    ConnectionRefusedError(111, "Connection refused"),
    socket.gaierror(-2, "Name or service not known"),
    named("ConnectTimeout"),
    named("ReadTimeout"),
    named("ConnectError"),
    named("RemoteProtocolError"),
    named("ServerDisconnectedError"),
    named("ClientConnectorError", OSError),
    named("ChunkedEncodingError"),
    named("ConnectionError"),
]


@pytest.mark.parametrize("shape", [HTTPStatusError, ClientResponseError, GithubException])
@pytest.mark.parametrize(("status", "message", "code", "retryable"), HTTP)
def test_http_errors(shape: type[Exception], status: int, message: str, code: str, retryable: bool) -> None:
    check(shape(status, message), code, retryable)


@pytest.mark.parametrize(("stderr", "code", "retryable"), GIT)
def test_gits_own_words(stderr: str, code: str, retryable: bool) -> None:
    check(git(stderr), code, retryable)


@pytest.mark.parametrize("error", NETWORK, ids=lambda error: type(error).__name__)
def test_network_errors(error: Exception) -> None:
    check(error, "UPSTREAM_UNAVAILABLE", R)


def check(error: BaseException, code: str, retryable: bool) -> None:
    found = github_error(error)
    assert (found["error_code"], found["retryable"]) == (code, retryable)
    body = {name: value for name, value in found.items() if name != "error"} | {
        "message": found["error"],
        "status": "failed",
    }
    assert schema.violation(schema.FAILED, body) is None


def test_a_bare_status_is_enough() -> None:
    for status, code in {
        401: "INVALID_INSTALLATION",
        404: "APP_NOT_INSTALLED",
        413: "FILE_TOO_LARGE",
        503: "UPSTREAM_UNAVAILABLE",
    }.items():
        assert github_error(Octokit(status))["error_code"] == code


def test_retry_after_from_either_header() -> None:
    now = 1_764_000_000.0
    limited = HTTPStatusError(403, "nope", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1764000042"})
    assert github_error(limited, now=now)["retryAfter"] == 42
    assert github_error(GithubException(403, "nope", {"Retry-After": "60"}), now=now)["retryAfter"] == 60
    assert github_error(ClientResponseError(503, "", {"retry-after": "7"}), now=now)["retryAfter"] == 7
    assert "retryAfter" not in github_error(HTTPStatusError(404, "", {"Retry-After": "60"}))


def test_recovery_url_from_base_and_slug() -> None:
    missing, forbidden = (
        HTTPStatusError(404, "Not Found"),
        HTTPStatusError(403, "Resource not accessible by integration"),
    )
    assert (
        github_error(missing, base_url="https://ghe.example.com/", app_slug="sync")["recoveryUrl"]
        == "https://ghe.example.com/apps/sync/installations/new"
    )
    assert github_error(forbidden)["recoveryUrl"] == "https://github.com/settings/installations"
    assert "recoveryUrl" not in github_error(TimeoutError())


@pytest.mark.parametrize(
    "secret",
    [
        "fatal: unable to access 'https://x-access-token:ghs_SECRETSECRET@github.com/o/r.git/': 403",
        "Authorization: Bearer SECRETSECRETSECRET",
        "token ghp_SECRET0123456789 refused",
        "github_pat_11SECRET_0123",
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJTRUNSRVQifQ.SECRETSIG",
    ],
)
def test_secrets_never_reach_an_event(secret: str) -> None:
    assert "SECRET" not in json.dumps(github_error(git(secret), step="push"))


def test_it_never_raises_whatever_it_is_given() -> None:
    class Hostile(Exception):
        @property
        def response(self) -> Any:
            raise RuntimeError("ha")

        def __str__(self) -> str:
            raise RuntimeError("ha ha")

    for error in (
        Hostile(),
        Exception(),
        KeyError(None),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
        BaseException("\ud800"),
    ):
        assert github_error(error)["error_code"] == "UNKNOWN"


def raised_from(error: Exception, cause: BaseException) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def raised_within(error: Exception, context: Exception) -> Exception:
    try:
        try:
            raise context
        except Exception:
            raise error  # noqa: B904  # as it happens
    except Exception as caught:
        return caught


RESET = ConnectionResetError()
LIMITED = HTTPStatusError(429, "slow down", {"retry-after": "7"})


@pytest.mark.parametrize(
    ("error", "code", "after"),
    [
        (ExceptionGroup("several", [ValueError("x"), LIMITED]), "RATE_LIMIT", 7),
        (ExceptionGroup("deep", [ExceptionGroup("deeper", [KeyError(1), RESET])]), "UPSTREAM_UNAVAILABLE", None),
        (raised_from(RuntimeError("the sync failed"), LIMITED), "RATE_LIMIT", 7),
        (raised_from(ValueError("x"), ExceptionGroup("g", [TimeoutError()])), "UPSTREAM_UNAVAILABLE", None),
        (raised_within(KeyError("cleanup"), git("error: GH006: Protected branch")), "BRANCH_PROTECTED", None),
        (raised_from(ValueError("x"), KeyError("y")), "UNKNOWN", None),
    ],
)
def test_what_an_exception_was_raised_for_and_what_its_group_holds_counts(
    error: Exception, code: str, after: int | None
) -> None:
    found = github_error(error)
    assert (found["error_code"], found.get("retryAfter")) == (code, after)


def test_exceptions_in_a_circle_are_looked_at_once() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert github_error(one)["error_code"] == "UNKNOWN"


SECRETS = {
    "a PEM block": "-----BEGIN RSA PRIVATE KEY-----\nSECRET\nSECRET\n-----END RSA PRIVATE KEY----- and on",
    "a PEM block that is cut": "key: -----BEGIN PRIVATE KEY-----\nSECRETSECRET",
    "an encoded URL": "https%3A%2F%2Fx-access-token%3ASECRET%40github.com%2Fo%2Fr",
    "a token behind a colon, encoded": "user%3Aghp_SECRETSECRET",
    "a URL": "fatal: unable to access 'https://x-access-token:SECRET@github.com/o/r.git/'",
    "a header": "Authorization: Bearer SECRETSECRET",
    "a JWT": "eyJhbGciOiJIUzI1NiJ9.eyJSECRET.SECRET",
    "a fine-grained token": "github_pat_SECRETSECRET",
}


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_leaves_a_worker_wherever_it_is_said(name: str) -> None:
    told: list[Entry] = []

    def emit(entry: Entry) -> int:
        told.append(entry)
        return len(told)

    secret = SECRETS[name]
    attempt = Attempt(Sync("o", "p", "to_github"), emit, lambda: 0.0, lambda: 0.0)
    attempt.start()
    attempt.progress(10, secret, secret)
    attempt.conflict([secret], "local_wins", details={"localCommitSha": secret, secret: [secret]})
    attempt.result({"branchName": secret, "notes": [{"deep": secret}], "bytes": secret.encode()})
    attempt.complete()
    failing = Attempt(Sync("o", "p", "to_github"), emit, lambda: 0.0, lambda: 0.0)
    failing.fail(github_error(raised_from(ValueError(secret), git(secret))))
    failing = Attempt(Sync("o", "p", "to_github"), emit, lambda: 0.0, lambda: 0.0)
    failing.fail({"error": secret, "details": {"context": {"a": [secret]}}, "recoveryUrl": secret})
    assert len(told) == 6
    assert "SECRET" not in "".join("".join(entry.fields) for entry in told)
