"""The house's order as data: a module imports only modules that stand above it."""

import ast
import re
from pathlib import Path

import pytest

import gateway

PACKAGE = Path(gateway.__file__).parent
ORDER = (
    "schema event members scope frame shaping config metrics logs trace "  # words
    "log silence operations history cursor topics hub limits "  # state
    "link source pages reader archive terms keys auth handshake wire connection "  # edges
    "ui problem answers door state asked api admin "  # faces
    "server __main__"  # process
).split()
# What asks the stream, and what asks sentinels and cluster nodes where it is.
READING = {"XRANGE", "XREAD", "XINFO"} | {"SENTINEL", "CLUSTER", "ASKING"}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{alias.name}" if node.module == "gateway" else node.module for alias in node.names
            }
    return found


def test_every_module_has_its_place() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_up(module: str) -> None:
    above = set(ORDER[: ORDER.index(module)])
    inside = {name.split(".")[1] for name in imports(PACKAGE / f"{module}.py") if name.startswith("gateway.")}
    assert inside <= above


def test_only_one_module_knows_redis_and_nothing_but_reading() -> None:
    for path in PACKAGE.glob("*.py"):
        if path.stem not in ("link", "source"):
            assert not any(name.split(".")[0] == "redis" for name in imports(path)), path
    text = "".join((PACKAGE / f"{name}.py").read_text() for name in ("link", "source", "pages", "reader", "archive"))
    commands = set(re.findall(r'\(\s*"(X?[A-Z]{3,})"', text))
    assert commands <= READING
    assert commands


@pytest.mark.parametrize(
    "module", "schema event members scope frame shaping log silence operations history cursor topics".split()
)
def test_the_core_is_pure(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(PACKAGE / f"{module}.py")} & {
        "asyncio",
        "time",
        "socket",
        "aiohttp",
        "redis",
    }


def test_no_file_is_long() -> None:
    lengths = sorted(len(path.read_text().splitlines()) for path in PACKAGE.glob("*.py"))
    assert lengths[-1] <= 300
