"""The chart: linted and rendered by real helm, each manifest valid and confined, every setting within reach."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gateway.config import VARIABLES, duration
from tests.chart import CHART, CI, helm, one, render

TRY, PRODUCTION = CHART / "ci" / "try-values.yaml", CHART / "ci" / "production-values.yaml"
GATEWAY_API = CHART / "ci" / "gateway-api-values.yaml"
TEAM = """
fullnameOverride: gw
secret: sse-gateway
commonLabels: {cost: sync}
config: {SSE_REDIS_URL: "redis://redis:6379/0"}
env: [{name: SSE_JWT_SECRET, valueFrom: {secretKeyRef: {name: jwt, key: k}}}]
envFrom: [{secretRef: {name: redis-operator}}]
serviceAccount: {create: false, name: there-already}
podSecurityContext: null
securityContext: {capabilities: null}
extraContainers: [{name: proxy, image: "proxy:1"}]
extraObjects:
  - {apiVersion: v1, kind: ConfigMap, metadata: {name: 'extra-{{ include "sse.name" . }}'},
     data: {of: '{{ .Release.Name }}'}}
lifecycle: {preStop: {exec: {command: ["true"]}}}
deployment: {revisionHistoryLimit: 3, strategy: {rollingUpdate: {maxSurge: 50%}}}
pod:
  initContainers: [{name: wait, image: "busybox:1"}]
  dnsConfig: {options: [{name: ndots, value: "1"}]}
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: rack, whenUnsatisfiable: ScheduleAnyway}]
service: {spec: {ipFamilyPolicy: PreferDualStack}}
ingress: {enabled: true, hosts: [a.example.com, b.example.com]}
monitoring: {monitor: ServiceMonitor, endpoint: {relabelings: [{action: labeldrop}]}}
"""
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
    assert "ingress.hosts" in done.stderr
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
    assert spec["replicas"] == VALUES["autoscaling"]["minReplicas"]
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


def test_a_rollout_spreads_its_own_pods_and_drains_are_not_held_up() -> None:
    pod = one(render(TRY), "Deployment")["spec"]["template"]["spec"]
    assert all(each["matchLabelKeys"] == ["pod-template-hash"] for each in pod["topologySpreadConstraints"])
    assert one(render(TRY), "PodDisruptionBudget")["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_a_new_chart_alone_rolls_no_pod() -> None:
    template = one(render(TRY), "Deployment")["spec"]["template"]
    assert "helm.sh/chart" not in json.dumps(template)


def test_who_scales_otherwise_leaves_replicas_out() -> None:
    assert "replicas" not in one(render(TRY, "replicas=null"), "Deployment")["spec"]
    by_cpu = one(render(PRODUCTION, "autoscaling.connectionsPerPod=0"), "HorizontalPodAutoscaler")["spec"]
    assert [metric["type"] for metric in by_cpu["metrics"]] == ["Resource"]


def test_the_live_page_is_behind_either_kind_of_route() -> None:
    ui = ("config.SSE_UI=on", "config.SSE_AUTH=none")
    ways = (
        one(render(GATEWAY_API, *ui), "HTTPRoute")["spec"]["rules"][0]["matches"],
        one(render(PRODUCTION, *ui), "Ingress")["spec"]["rules"][0]["http"]["paths"],
    )
    assert {"path": {"type": "PathPrefix", "value": "/"}} in ways[0]
    assert "/" in [path["path"] for path in ways[1]]


def test_every_way_in_for_a_team_of_its_own(tmp_path: Path) -> None:
    values = tmp_path / "team-values.yaml"
    values.write_text(TEAM)
    manifests = render(values)
    deployment = one(manifests, "Deployment", "gw")["spec"]
    pod = deployment["template"]["spec"]
    [gateway, sidecar] = pod["containers"]
    assert deployment["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "50%"},
    }
    assert (deployment["revisionHistoryLimit"], deployment["minReadySeconds"]) == (3, 5)
    assert pod["serviceAccountName"] == "there-already"
    assert not [each for each in manifests if each["kind"] == "ServiceAccount"]
    assert "securityContext" not in pod
    assert "runAsUser" not in gateway["securityContext"]
    assert gateway["securityContext"]["readOnlyRootFilesystem"] is True
    assert gateway["env"] == [{"name": "SSE_JWT_SECRET", "valueFrom": {"secretKeyRef": {"name": "jwt", "key": "k"}}}]
    assert [list(each) for each in gateway["envFrom"]] == [["configMapRef"], ["secretRef"], ["secretRef"]]
    assert gateway["lifecycle"] == {"preStop": {"exec": {"command": ["true"]}}}
    assert sidecar["name"] == "proxy"
    assert pod["initContainers"][0]["name"] == "wait"
    assert pod["dnsConfig"] == {"options": [{"name": "ndots", "value": "1"}]}
    assert [each["topologyKey"] for each in pod["topologySpreadConstraints"]] == ["rack"]
    assert one(manifests, "Service", "gw")["spec"]["ipFamilyPolicy"] == "PreferDualStack"
    ingress = one(manifests, "Ingress", "gw")["spec"]
    assert [rule["host"] for rule in ingress["rules"]] == ["a.example.com", "b.example.com"]
    assert one(manifests, "ServiceMonitor", "gw")["spec"]["endpoints"][0]["relabelings"] == [{"action": "labeldrop"}]
    assert one(manifests, "ConfigMap", "extra-gw")["data"] == {"of": "demo"}
    for manifest in manifests:
        if manifest["kind"] not in FOREIGN:
            kubernetes_validate.validate(manifest, "1.33", strict=True)
        if manifest["metadata"]["name"] != "extra-gw":
            assert manifest["metadata"]["labels"]["cost"] == "sync"


def test_a_canary_beside_a_release() -> None:
    """Neither selects, replaces or silences anything of the other's; the route has both."""
    backend = '{"name":"sse-canary-sse-gateway","port":80,"weight":5}'
    one_values = (
        "-f",
        str(GATEWAY_API),
        "--set",
        "httpRoute.weight=95",
        "--set-json",
        f"httpRoute.backends=[{backend}]",
    )
    two_values = ("-f", str(GATEWAY_API), "-f", str(CHART / "ci" / "canary-values.yaml"))
    watched = ("--set", "monitoring.monitor=ServiceMonitor,monitoring.rules=true")
    both = []
    for name, given in (("sse", one_values), ("sse-canary", two_values)):
        done = helm("template", name, str(CHART), "-n", "sse", *given, *watched)
        assert done.returncode == 0, done.stderr
        both.append([manifest for manifest in yaml.safe_load_all(done.stdout) if manifest])
    names = [{(each["kind"], each["metadata"]["name"]) for each in manifests} for manifests in both]
    assert not names[0] & names[1]
    stable, canary = (
        one(manifests, "Deployment", name)["spec"]
        for manifests, name in zip(both, ("sse-sse-gateway", "sse-canary-sse-gateway"), strict=True)
    )
    assert not stable["selector"]["matchLabels"].items() <= canary["template"]["metadata"]["labels"].items()
    assert not canary["selector"]["matchLabels"].items() <= stable["template"]["metadata"]["labels"].items()
    backends = one(both[0], "HTTPRoute", "sse-sse-gateway")["spec"]["rules"][0]["backendRefs"]
    assert [(each["name"], each["weight"]) for each in backends] == [
        ("sse-sse-gateway", 95),
        ("sse-canary-sse-gateway", 5),
    ]
    there = {
        (each["metadata"]["name"], port["port"])
        for each in both[1]
        if each["kind"] == "Service"
        for port in each["spec"]["ports"]
    }
    assert ("sse-canary-sse-gateway", 80) in there
    gone = [
        one(manifests, "PrometheusRule", name)["spec"]["groups"][0]["rules"][0]["expr"]
        for manifests, name in zip(both, ("sse-sse-gateway", "sse-canary-sse-gateway"), strict=True)
    ]
    for expression, job in zip(gone, ("sse-sse-gateway-admin", "sse-canary-sse-gateway-admin"), strict=True):
        assert set(re.findall(r"up(\{.*?\})", expression)) == {f'{{namespace="sse",job="{job}"}}'}


def leaves(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        whole = ("annotations", "requests", "limits", "behavior", "podSecurityContext", "securityContext")
        if isinstance(value, dict) and value and name not in whole:
            yield from leaves(value, f"{path}{name}.")
        else:
            yield path + name, value


def test_every_value_is_in_the_readme_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \|", README.partition("## Values")[2], re.MULTILINE))
    assert rows.keys() == dict(leaves(VALUES)).keys()
    for name, value in leaves(VALUES):
        if not isinstance(value, dict):
            assert rows[name] == ("" if value == "" else f"`{json.dumps(value).strip(chr(34))}`"), name


KINDS = {
    "v1": ["ServiceAccount", "ConfigMap", "Service", "Pod"],
    "apps/v1": ["Deployment"],
    "autoscaling/v2": ["HorizontalPodAutoscaler"],
    "policy/v1": ["PodDisruptionBudget"],
}


@contextmanager
def cluster(deployments: dict[str, int], scalers: list[str]) -> Iterator[str]:
    """As much of an API server as `lookup` asks: Deployments with so many replicas, HorizontalPodAutoscalers."""
    held: dict[str, Any] = {f"deployments/{name}": {"spec": {"replicas": count}} for name, count in deployments.items()}
    held |= {f"horizontalpodautoscalers/{name}": {} for name in scalers}
    groups = [
        {"name": each.partition("/")[0], "versions": [{"groupVersion": each, "version": each.partition("/")[2]}]}
        for each in KINDS
        if each != "v1"
    ]

    def answer(path: str) -> dict[str, Any] | None:
        version, _, rest = path.removeprefix("apis/").removeprefix("api/").partition("/namespaces/sse/")
        fixed: dict[str, dict[str, Any]] = {
            "version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
            "api": {"kind": "APIVersions", "versions": ["v1"]},
            "apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
        }
        if path in fixed:
            return fixed[path]
        if version in KINDS and not rest:
            resources = [
                {
                    "name": f"{kind.lower()}s",
                    "singularName": kind.lower(),
                    "namespaced": True,
                    "kind": kind,
                    "verbs": ["get"],
                }
                for kind in KINDS[version]
            ]
            return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        if rest in held:
            owned = {"meta.helm.sh/release-name": "demo", "meta.helm.sh/release-namespace": "sse"}
            name, labels = rest.partition("/")[2], {"app.kubernetes.io/managed-by": "Helm"}
            about = {"name": name, "namespace": "sse", "labels": labels, "annotations": owned}
            return {"apiVersion": version, "kind": KINDS[version][0], "metadata": about} | held[rest]
        return None

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answer(self.path.partition("?")[0].strip("/"))
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(found or missing).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *given: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("settings", "deployments", "scalers", "wanted"),
    [
        ("autoscaling.enabled=true", {"demo-sse-gateway": 6}, [], 6),  # turned on: as many as there were
        ("autoscaling.enabled=true", {"demo-sse-gateway": 9}, ["demo-sse-gateway"], 9),  # the autoscaler's number
        ("autoscaling.enabled=true", {"demo-sse-gateway": 1}, [], 3),
        ("autoscaling.enabled=true", {}, [], 3),  # the first time
        ("replicas=2", {"demo-sse-gateway": 8}, ["demo-sse-gateway"], 8),  # turned off
        ("replicas=2", {"demo-sse-gateway": 8}, [], 2),  # asked for
    ],
)
def test_no_upgrade_that_turns_autoscaling_on_or_off_takes_pods_away(
    settings: str, deployments: dict[str, int], scalers: list[str], wanted: int
) -> None:
    with cluster(deployments, scalers) as url:
        words = ("template", "demo", str(CHART), "-n", "sse", "-f", str(TRY), "--set", settings, "--dry-run=server")
        done = helm(*words, "--kube-apiserver", url, "--disable-openapi-validation")
    assert done.returncode == 0, done.stderr
    manifests = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
    assert one(manifests, "Deployment")["spec"]["replicas"] == wanted
