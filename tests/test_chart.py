"""The chart: linted and rendered by real helm, each manifest valid and confined, every setting within reach."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gateway.config import VARIABLES, duration
from tests.chart import CHART, CI, helm, one, render

TRY, PRODUCTION = CHART / "ci" / "try-values.yaml", CHART / "ci" / "production-values.yaml"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
README = (CHART / "README.md").read_text()
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
FOREIGN = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "HTTPRoute"}
"""Kinds of operators, whose schemas kubernetes-validate doesn't have."""
each_ci = pytest.mark.parametrize("values", [CHART / "values.yaml", *CI], ids=lambda path: path.stem)


def pods(manifests: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in manifests:
        if each["kind"] == "Pod":
            yield each["spec"]
        elif "template" in each.get("spec", {}):
            yield each["spec"]["template"]["spec"]


def environment(manifests: list[dict[str, Any]]) -> dict[str, str]:
    return dict(one(manifests, "ConfigMap")["data"])


@each_ci
def test_helm_lints_it(values: Path) -> None:
    done = helm("lint", "--strict", str(CHART), "-f", str(values))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@each_ci
def test_every_manifest_is_valid(values: Path) -> None:
    for manifest in render(values):
        if manifest["kind"] not in FOREIGN:
            kubernetes_validate.validate(manifest, "1.33", strict=True)
        assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "demo"


@each_ci
def test_every_pod_keeps_the_restricted_standard(values: Path) -> None:
    """Kubernetes, "Pod Security Standards", Restricted; and beyond it no root file system, token or service links."""
    found = list(pods(render(values)))
    assert len(found) >= 2  # the gateway, and the chart's test
    for pod in found:
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all({"configMap", "secret", "emptyDir"} & volume.keys() for volume in pod.get("volumes", []))
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


def test_every_variable_is_within_reach_and_a_wrong_one_is_not() -> None:
    config = SCHEMA["properties"]["config"]["properties"]
    assert config.keys() | {"SSE_JWT_SECRET", "SSE_LISTEN", "SSE_ADMIN_LISTEN"} == VARIABLES.keys()
    for name, schema in config.items():
        default = VARIABLES[name].default
        kind = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        assert "enum" not in kind or default in kind["enum"]
        assert not default or re.search(kind.get("pattern", ""), default), name
    for wrong in ("config.SSE_DRIAN=20s", "config.SSE_DRAIN=20", "config.SSE_JWT_SECRET=x", "replica=2", "replicas=0"):
        done = helm("template", str(CHART), "-f", str(TRY), "--set-string", wrong)
        assert done.returncode != 0, wrong
        assert "values.schema.json" in done.stderr or "schema" in done.stderr


def test_the_schema_takes_the_durations_that_the_gateway_takes() -> None:
    for kind in ("duration", "durationOrZero"):
        pattern = SCHEMA["$defs"][kind]["pattern"]
        for text in ("500ms", "15s", "2m", "24h", "1.5s", "0.1s", "0", "0s", "10", "s", "1d", "-1s", "1 s", "1.s", ""):
            try:
                accepted = duration(text) > 0 or kind == "durationOrZero"
            except ValueError:
                accepted = False
            assert bool(re.search(pattern, text)) == accepted, (kind, text)


@pytest.mark.parametrize("drain", ["0", "1500ms", "20s", "45s", "2m", "1h"])
def test_the_grace_period_covers_the_drain(drain: str) -> None:
    [pod, *_] = pods([one(render(TRY, f"config.SSE_DRAIN={drain}", "preStopSeconds=7"), "Deployment")])
    assert pod["containers"][0]["lifecycle"]["preStop"] == {"sleep": {"seconds": 7}}
    assert 7 + duration(drain) + 10 <= pod["terminationGracePeriodSeconds"] < 7 + duration(drain) + 11


def test_what_is_missing_is_said() -> None:
    done = helm("template", str(CHART), "--set", "secret=")
    assert done.returncode != 0
    assert "config.SSE_JWKS_URL" in done.stderr
    done = helm("template", str(CHART), "--set", "secret=,config.SSE_AUTH=none")
    assert "config.SSE_REDIS_URL" in done.stderr
    done = helm("template", str(CHART), "-f", str(TRY), "--set", "ingress.enabled=true")
    assert "ingress.host" in done.stderr
    done = helm("template", str(CHART), "-f", str(PRODUCTION), "--set", "networkPolicy.redisTo=null")
    assert "networkPolicy.redisTo" in done.stderr


def test_the_admin_port_is_for_the_platform_only() -> None:
    manifests = render(PRODUCTION)
    assert [port["targetPort"] for port in one(manifests, "Service")["spec"]["ports"]] == ["public"]
    assert one(manifests, "Service", "demo-sse-gateway-admin")["spec"]["clusterIP"] == "None"
    paths = one(manifests, "Ingress")["spec"]["rules"][0]["http"]["paths"]
    assert {path["backend"]["service"]["name"] for path in paths} == {"demo-sse-gateway"}
    policy = one(manifests, "NetworkPolicy")["spec"]
    peers = {port["port"]: rule["from"] for rule in policy["ingress"][:2] for port in rule["ports"]}
    assert peers["admin"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]


def test_a_deploy_takes_no_pod_before_another_is_there() -> None:
    manifests = render(PRODUCTION)
    spec = one(manifests, "Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert "replicas" not in spec, "the autoscaler's business"
    selector = one(manifests, "PodDisruptionBudget")["spec"]["selector"]
    assert selector == spec["selector"]
    assert selector["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    changed = one(render(PRODUCTION, "config.SSE_HEARTBEAT=20s"), "Deployment")["spec"]["template"]
    assert changed["metadata"]["annotations"] != spec["template"]["metadata"]["annotations"], "settings roll the pods"


def test_the_variables_reach_the_pod() -> None:
    settings = environment(render(PRODUCTION))
    wanted = yaml.safe_load(PRODUCTION.read_text())["config"]
    assert settings == wanted | {"SSE_LISTEN": "0.0.0.0:8080", "SSE_ADMIN_LISTEN": "0.0.0.0:8081"}
    [pod, *_] = pods([one(render(PRODUCTION), "Deployment")])
    assert pod["containers"][0]["envFrom"][1] == {"secretRef": {"name": "sse-gateway"}}
    assert environment(render(TRY))["SSE_REDIS_URL"] == "redis://demo-sse-gateway-redis:6379/0"


def leaves(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value and name not in ("annotations", "requests", "limits"):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield path + name, value


def test_every_value_is_in_the_readme_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \|", README.partition("## Values")[2], re.MULTILINE))
    assert rows.keys() == dict(leaves(VALUES)).keys()
    for name, value in leaves(VALUES):
        if not isinstance(value, dict):
            assert rows[name] == ("" if value == "" else f"`{json.dumps(value).strip(chr(34))}`"), name
