"""The wheel, installed as a worker and as an operator would, each in a venv of its own."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import redis

from gateway import __version__
from tests.e2e.process import Process
from tests.redis_server import RedisServer

ROOT = Path(__file__).parent.parent.parent
QUIET = ("--quiet", "--disable-pip-version-check")
WORKER = """
import os, sys
from gateway.producer import AsyncProducer, Producer
assert not {"redis", "aiohttp", "uvloop", "orjson"} & set(sys.modules), "the kit imports none of them"
import redis
client = redis.Redis.from_url(os.environ["URL"])
with Producer(client) as producer, producer.operation("op-1", "p-1", direction="to_github") as op:
    op.progress(50, "Half")
"""


def pip(python: str | Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Not in place: setuptools leaves a build/ where it works.
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in files.stdout.splitlines():
        if name.split("/")[0] in ("gateway", "pyproject.toml", "README.md", "LICENSE") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *QUIET, "--no-deps", "--wheel-dir", str(out), str(source)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [made] = out.glob("*.whl")
    return made


def venv(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin"


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def test_the_wheel_has_what_both_need(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert f"-{__version__}-" in wheel.name
    assert {"gateway/producer/core.py", "gateway/schema.json", "gateway/py.typed", "gateway/ui/index.html"} <= names
    assert not any(name.startswith("tests") for name in names)


@pytest.mark.parametrize("client", ["redis==5.0.0", "redis"])
def test_the_kit_is_installed_alone(wheel: Path, tmp_path: Path, own_redis: RedisServer, client: str) -> None:
    bin = venv(tmp_path / "venv")
    pip(bin / "python", "install", *QUIET, str(wheel), client)
    ran = subprocess.run(
        [bin / "python", "-W", "error", "-c", WORKER], cwd=tmp_path, env=clean() | {"URL": own_redis.url},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    types = [fields[b"type"] for _, fields in redis.Redis.from_url(own_redis.url).xrange("github:sync:events")]
    assert types == [b"github_sync_started", b"github_sync_progress", b"github_sync_completed"]
    missing = subprocess.run([bin / "sse-gateway"], cwd=tmp_path, env=clean(), capture_output=True, text=True)
    assert missing.returncode == 1
    assert "pip install 'sse-gateway[server]'" in missing.stderr


def test_the_server_is_its_extra_with_a_script_and_its_page(
    wheel: Path, tmp_path: Path, shared_redis: RedisServer
) -> None:
    bin = venv(tmp_path / "venv")
    pip(bin / "python", "install", *QUIET, f"sse-gateway[server] @ {wheel.as_uri()}")
    script = str(bin / "sse-gateway")
    version = subprocess.run([script, "--version"], cwd=tmp_path, env=clean(), capture_output=True, text=True)
    assert version.stdout == f"sse-gateway {__version__}\n"
    settings = {"SSE_REDIS_URL": shared_redis.url, "SSE_STREAM": "none", "SSE_UI": "on"}
    process = Process(command=(script,), cwd=tmp_path, **settings)
    process.start()
    try:
        page = subprocess.run(["curl", "-sf", process.url + "/"], capture_output=True, text=True, check=True)
        assert "<html" in page.stdout
    finally:
        status, _ = process.stop()
    assert status == 0
