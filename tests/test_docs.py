"""A setting, a metric, a file or a link without documentation fails here."""

import re
from pathlib import Path

import pytest

from gateway import schema
from gateway.config import VARIABLES
from gateway.metrics import Metrics
from tests.e2e.test_other_clients import CLIENTS
from tests.test_imports import ORDER

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPERATORS = (ROOT / "helm" / "sse-gateway" / "README.md").read_text(encoding="utf-8")
PAGES = [
    "README.md",
    "CHANGELOG.md",
    "gateway/README.md",
    "gateway/producer/README.md",
    "gateway/js/README.md",
    "helm/sse-gateway/README.md",
    "tests/bench/README.md",
]


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(SSE_\w+)` \| (?:`([^`]*)`)? *\|", README, re.MULTILINE))
    assert rows == {name: variable.default for name, variable in VARIABLES.items()}


def test_every_metric_is_documented_with_its_type() -> None:
    rows = dict(re.findall(r"^\| `(sse_gateway_\w+)` \| (\w+) \|", OPERATORS, re.MULTILINE))
    families = Metrics().collect()
    assert rows == {family.name + ("_total" if family.type == "counter" else ""): family.type for family in families}


def test_every_error_code_has_its_advice() -> None:
    words = (ROOT / "gateway" / "js" / "words.js").read_text(encoding="utf-8")
    assert set(re.findall(r'^  ([A-Z_]+): \["', words, re.MULTILINE)) == set(schema.ERROR_CODES)


def test_the_guides_can_be_read_top_down() -> None:
    assert len(README.splitlines()) <= 200
    assert len((ROOT / "gateway" / "js" / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_guides_clients_are_those_that_are_tested() -> None:
    guide = (ROOT / "gateway" / "js" / "README.md").read_text(encoding="utf-8")
    table = guide[guide.index("| client |") :].partition("\n\n")[0]
    named = [name for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE)[2:] for name in row.split(", ")]
    assert sorted(named) == sorted(str(client.id) for client in CLIENTS)


def test_every_make_target_is_real() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {name for page in PAGES for name in re.findall(r"`make (\w+)[^`]*`", (ROOT / page).read_text())}
    assert {"run", "test", "check", "lock"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


def test_the_house_is_described_as_it_stands() -> None:
    text = (ROOT / "gateway" / "README.md").read_text(encoding="utf-8")
    layers = text[text.index("## The layers") : text.index("## The words")]
    assert re.findall(r"`(\w+)`", layers.partition("| |\n")[2]) == ORDER


@pytest.mark.parametrize("path", sorted((ROOT / "gateway").glob("*.py")), ids=lambda path: path.stem)
def test_every_module_says_what_it_owns(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith('"""')
