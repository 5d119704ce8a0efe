"""The browser's module without a browser: node's own test runner over tests/js."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "js"


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_the_module_keeps_its_promises_in_node() -> None:
    tests = sorted(map(str, HERE.glob("*.test.mjs")))
    assert len(tests) >= 4
    seed = {} if "CI" in os.environ else {"SEED": str(os.getpid())}  # CI tries the same orders each time
    done = subprocess.run(
        ["node", "--test", *tests], env=os.environ | seed, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-8000:]
