"""Prometheus' side: alerts that fire and that don't, by promtool; a dashboard that names only what there is."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from gateway.event import REASONS
from gateway.metrics import Metrics
from tests.chart import CHART, ROOT

ALERTS, DASHBOARD = CHART / "files" / "alerts.yaml", CHART / "files" / "dashboard.json"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
PANELS = json.loads(DASHBOARD.read_text())["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
CASES = ROOT / "tests" / "testdata" / "alerts_test.yaml"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not installed"
)


@needs_promtool
@pytest.mark.parametrize("command", [("check", "rules", str(ALERTS)), ("test", "rules", str(CASES))])
def test_promtool_accepts_the_rules_and_they_fire_when_they_should(command: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in RULES}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == names


def test_every_alert_has_its_paragraph_in_the_readme() -> None:
    readme = (ROOT / "helm" / "sse-gateway" / "README.md").read_text()
    for rule in RULES:
        assert f"\n**{rule['alert']}**" in readme
        assert rule["annotations"]["runbook_url"].endswith("/helm/sse-gateway/README.md#alerts")
    assert set(re.findall(r"^\*\*(SSEGateway\w+)\*\*", readme, re.MULTILINE)) == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("query", QUERIES + [rule["expr"] for rule in RULES])
def test_every_query_names_only_metrics_that_there_are(query: str) -> None:
    there = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"}
    there |= {sample.name for family in Metrics().collect() for sample in family.samples}
    named = set(re.findall(r"\b(?:(?:sse_gateway|process)_\w+|up(?=\{))", query))
    assert named
    assert named <= there


def test_every_panel_says_what_it_shows() -> None:
    assert all(len(panel["description"]) > 20 for panel in PANELS)


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(QUERIES)
    for family in Metrics().collect():
        assert family.name in shown


def test_every_series_of_a_fixed_label_is_there_from_the_start() -> None:
    """A series that begins with its first event hides that event from rate()."""
    [rejected] = [family for family in Metrics().collect() if family.name == "sse_gateway_events_rejected"]
    reasons = [sample.labels["reason"] for sample in rejected.samples]
    assert sorted(reasons) == sorted(REASONS)
