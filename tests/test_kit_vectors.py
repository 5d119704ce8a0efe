"""Both kits, run through the same vectors: progress series, errors by their shapes, texts with secrets."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway import schema
from tests.kit_vectors import KINDS, expanded
from tests.schema_json import FILES

HERE = Path(__file__).parent
VECTORS: dict[str, list[Any]] = {
    kind: expanded(json.loads((HERE / "testdata" / "kit" / f"{kind}.json").read_text("utf-8"))) for kind in KINDS
}
ALL = [(kind, number) for kind, cases in VECTORS.items() for number in range(len(cases))]


@pytest.fixture(scope="module")
def javascript() -> dict[str, list[Any]]:
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    done = subprocess.run(["node", "npm/vectors.mjs"], cwd=HERE, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(("kind", "number"), ALL)
def test_python(kind: str, number: int) -> None:
    case = VECTORS[kind][number]
    assert KINDS[kind](case) == case["gives"]


@pytest.mark.parametrize(("kind", "number"), ALL)
def test_javascript(javascript: dict[str, list[Any]], kind: str, number: int) -> None:
    assert javascript[kind][number] == VECTORS[kind][number]["gives"]


def test_what_must_come_out_keeps_the_contract() -> None:
    for case in VECTORS["series"]:
        for type, data in case["gives"]:
            assert schema.violation(type, data) is None, data
            assert len(json.dumps(data, ensure_ascii=False).encode()) < schema.ENTRY_MAX_BYTES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_other_languages_share_is_current(path: Path) -> None:
    assert path.read_text() == FILES[path](), "run: python -m tests.schema_json"
