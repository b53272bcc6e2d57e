"""The keys of SuperSONIC's chart that our values may use; and, with a copy of the chart, a check that they are right.

    python -m tests.docker.supersonic FOLDER      FOLDER: helm/supersonic of a SuperSONIC checkout

The chart is another project's and cannot be fetched where the tests run, so they compare with this list. The command
holds the list against the chart, renders the chart with our values and checks the result against Kubernetes' schemas.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

VALUES = Path(__file__).resolve().parents[2] / "docker" / "kubernetes" / "supersonic-values.yaml"
CHART_VERSION = "0.3.1"
KUBERNETES = ("1.31", "1.34")
CUSTOM = ("ScaledObject", "ServiceMonitor")
"""Kinds without a schema in Kubernetes itself."""

KEYS: dict[str, type | tuple[type, ...]] = {
    "serverLoadMetric": str,
    "serverLoadThreshold": int,
    "triton.image": str,
    "triton.command": list,
    "triton.args": list,
    "triton.replicas": int,
    "triton.resources.requests": dict,
    "triton.resources.limits": dict,
    "triton.annotations": dict,
    "triton.nodeSelector": dict,
    "triton.tolerations": list,
    "triton.affinity": dict,
    "triton.modelRepository.enabled": bool,
    "triton.modelRepository.mountPath": str,
    "triton.modelRepository.storageType": str,
    "triton.modelRepository.nfs.server": str,
    "triton.modelRepository.nfs.path": str,
    "triton.modelRepository.pvc.claimName": str,
    "triton.service.labels": dict,
    "triton.service.annotations": dict,
    "triton.service.ports": list,
    "triton.readinessProbe.reset": bool,
    "triton.readinessProbe.command": list,
    "triton.readinessProbe.initialDelaySeconds": int,
    "triton.readinessProbe.periodSeconds": int,
    "triton.readinessProbe.timeoutSeconds": int,
    "triton.readinessProbe.successThreshold": int,
    "triton.readinessProbe.failureThreshold": int,
    "triton.startupProbe.reset": bool,
    "triton.startupProbe.initialDelaySeconds": int,
    "triton.startupProbe.periodSeconds": int,
    "triton.startupProbe.failureThreshold": int,
    "triton.startupProbe.httpGet.path": str,
    "triton.startupProbe.httpGet.port": (str, int),
    "envoy.enabled": bool,
    "envoy.replicas": int,
    "envoy.image": str,
    "envoy.resources.requests": dict,
    "envoy.resources.limits": dict,
    "envoy.grpc_route_timeout": str,
    "envoy.loadBalancerPolicy": str,
    "keda.enabled": bool,
    "keda.minReplicaCount": int,
    "keda.maxReplicaCount": int,
    "keda.zeroIdleReplicas": bool,
    "keda.scaleUp.stabilizationWindowSeconds": int,
    "keda.scaleUp.periodSeconds": int,
    "keda.scaleUp.stepsize": int,
    "keda.scaleDown.stabilizationWindowSeconds": int,
    "keda.scaleDown.periodSeconds": int,
    "keda.scaleDown.stepsize": int,
    "prometheus.external.enabled": bool,
    "prometheus.external.url": str,
    "prometheus.external.port": int,
    "prometheus.external.scheme": str,
}
"""What chart 0.3.1 reads, as far as a site would set it for our image: the path in the values, and the type."""


def wrong_keys(values: Any, path: str = "") -> Iterator[str]:
    """What in the values the chart does not read, or would read as another type."""
    kind = KEYS.get(path)
    if kind is not None:
        if not isinstance(values, kind) or (kind is int and isinstance(values, bool)):
            yield f"{path} is {values!r}"
    elif isinstance(values, dict) and (not path or any(key.startswith(f"{path}.") for key in KEYS)):
        for name, value in values.items():
            yield from wrong_keys(value, f"{path}.{name}" if path else name)
    else:
        yield f"{path} is not read by chart {CHART_VERSION}"


def validate(manifests: Path) -> Iterator[str]:
    """What of a file of manifests is not as the schemas of two Kubernetes versions demand."""
    tool = Path(sys.executable).with_name("kubernetes-validate")
    for version in KUBERNETES:
        done = subprocess.run([tool, "-k", version, "--strict", manifests], capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).splitlines()
        yield from (line for line in lines if "passed" not in line and not any(kind in line for kind in CUSTOM))
        if not lines:
            yield f"kubernetes-validate checked nothing (exit code {done.returncode})"


def check_chart(chart: Path) -> Iterator[str]:
    """What is wrong with the list above or with our values, by the chart itself."""
    description = yaml.safe_load((chart / "Chart.yaml").read_text())
    if description["version"] != CHART_VERSION:
        yield f"this is chart {description['version']}, the list is of {CHART_VERSION}"
    defaults = yaml.safe_load((chart / "values.yaml").read_text())
    texts = "\n".join(path.read_text() for path in (chart / "templates").rglob("*.*"))
    for key in KEYS:
        known: Any = defaults
        for name in key.split("."):
            known = known.get(name, ...) if isinstance(known, dict) else ...
        if known is ... and not re.search(rf"\.Values\.{re.escape(key)}\b", texts):
            yield f"the chart does not know {key}"
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "chart"
        shutil.copytree(chart, copy)
        del description["dependencies"]  # other projects' charts, all off in our values
        (copy / "Chart.yaml").write_text(yaml.safe_dump(description))
        (copy / "Chart.lock").unlink(missing_ok=True)
        done = subprocess.run(
            ["helm", "template", "sonic", copy, "--values", VALUES], capture_output=True, text=True, check=False
        )
        if done.returncode:
            yield done.stderr.strip()
            return
        rendered = [document for document in yaml.safe_load_all(done.stdout) if document]
        own = Path(scratch) / "rendered.yaml"
        own.write_text("---\n".join(yaml.safe_dump(_without_nulls(document)) for document in rendered))
        sys.stdout.write(", ".join(f"{each['kind']} {each['metadata']['name']}" for each in rendered) + "\n")
        yield from validate(own)


def _without_nulls(value: Any) -> Any:
    """The chart writes keys without a value, which Kubernetes drops."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def main() -> int:
    """Check the chart in the folder that is named; 1 when something is wrong."""
    if len(sys.argv) != 2:
        sys.stderr.write(__doc__ or "")
        return 2
    found = [*wrong_keys(yaml.safe_load(VALUES.read_text())), *check_chart(Path(sys.argv[1]))]
    sys.stdout.write("".join(f"{line}\n" for line in found) or "as the chart wants it\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
