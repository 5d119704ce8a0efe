"""Node.js with the packages of tests/npm, and the package github-sync-events as it is published: packed, installed."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NPM = ROOT / "tests" / "npm"
FRONT = ROOT / "tests" / "front"
JS = ROOT / "gateway" / "js"
FLAGS = ("--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund")


def packed(folder: Path) -> Path:
    """The package's tarball."""
    words = ["npm", "pack", "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(words, cwd=JS, check=True, capture_output=True, text=True, timeout=60)
    return folder / done.stdout.split()[-1]


def installed(folder: Path = NPM) -> Path:
    """A folder of tests with all that it needs."""
    modules = folder / "node_modules"
    stamp = modules / ".installed"
    wanted = (folder / "package.json").read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        # What is optional are native parts, which Vite can't do without and nothing else here needs.
        flags = FLAGS if folder == FRONT else (*FLAGS, "--omit=optional")
        subprocess.run(["npm", "install", *flags], cwd=folder, check=True, capture_output=True, timeout=300)
        stamp.write_text(wanted)
    ours = modules / "github-sync-events"
    shutil.rmtree(ours, ignore_errors=True)
    ours.mkdir()
    tarball = packed(ours)
    subprocess.run(["tar", "xzf", tarball.name, "--strip", "1"], cwd=ours, check=True)
    tarball.unlink()
    return folder


@asynccontextmanager
async def node(*arguments: str, cwd: Path, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Node.js process that is gone when the block is left."""
    process = await asyncio.create_subprocess_exec(
        "node", *arguments, cwd=cwd, env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
