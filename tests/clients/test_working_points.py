"""Flags of working points: of the version and the scale that answers, in every format, or not at all."""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

import fpga_ops
from fpga_ops.calibration import read_calibration
from fpga_ops.errors import ModelError
from sonic_client import Client, ConfigurationError, WorkingPoint, WorkingPointError, prepare
from sonic_client.commands import tag as command
from sonic_client.options import LocalModel, Options
from sonic_client.tag_file import Job, run_job
from sonic_client.tag_parts import VersionError
from tests.clients.fake_server import serving
from tests.clients.jets import narrow_jets
from tests.clients.models import write_repository
from tests.clients.test_provenance import metrics_page
from tests.clients.test_tag_jobs import Versioned, columns_of, provenance
from triton_server import TritonServer

JETS = narrow_jets(12, seed=3, most=10)
MODEL = {"model": "top_tagger"}


def gauge(name: str, **labels: str) -> str:
    inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{inside}}} 1\n"


def page(threshold: float, *, version: str = "1", temperature: str = "1.0", efficiency: str = "0.3") -> str:
    more = {} if temperature == "1.0" else {"temperature": temperature}
    return gauge("fpga_model_info", **MODEL, version=version, device="cpu", precision="int8", **more) + gauge(
        "fpga_working_point", **MODEL, version=version, efficiency=efficiency, threshold=repr(threshold),
        temperature=temperature, label="top",
    )  # fmt: skip


def write_card(folder: Path, threshold: float, *, version: str = "1", temperature: float | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    card: dict[str, Any] = {**MODEL, "version": int(version)}
    card["working_points"] = {"points": {"0.3": {"threshold": threshold}, "0.5": {"threshold": threshold / 2}}}
    if temperature is not None:
        card["temperature"] = {"value": temperature}
    (folder / "model_card.json").write_text(json.dumps(card))
    return folder / "model_card.json"


@pytest.fixture
def fake() -> Iterator[tuple[Versioned, str]]:
    server = Versioned()
    with serving(server) as (_, address):
        yield server, f"grpc://{address}/top_tagger"


@pytest.fixture
def job(tmp_path: Path, fake: tuple[Versioned, str]) -> Job:
    columns = {f"constituent_{name}": JETS[name] for name in JETS.fields}
    ak.to_parquet(ak.zip(columns, depth_limit=1), tmp_path / "in.parquet", extensionarray=False)
    return Job(tmp_path / "in.parquet", tmp_path / "out.parquet", fake[1], chunk=5, working_points=(0.3,))


def scores_of(url: str) -> np.ndarray:
    with Client(url) as client:
        return np.asarray(client.tag(JETS))


@contextmanager
def raises_before_any_chunk(kind: type[Exception], words: str, job: Job) -> Iterator[None]:
    with pytest.raises(kind, match=words):
        yield
    assert not job.output.exists()
    assert not list(job.parts.glob("*.parquet"))


@pytest.mark.parametrize("suffix", [".root", ".parquet", ".h5"])
def test_the_flag_is_beside_the_score_in_every_format(job: Job, fake: tuple[Versioned, str], suffix: str) -> None:
    scores = scores_of(fake[1])
    threshold = float(np.sort(scores)[7])  # a jet at the threshold is not above it
    out = job.output.with_suffix(suffix)
    with metrics_page(page(threshold)) as url:
        run_job(replace(job, output=out, metrics=url))
    back = columns_of(out)
    assert back["top_score"] == scores.tolist()
    assert back["top_score_wp30"] == (scores > threshold).tolist()
    assert sum(back["top_score_wp30"]) == 4
    assert provenance(out)["working_points"] == {
        "top_score_wp30": {"efficiency": 0.3, "threshold": threshold, "temperature": 1.0, "label": "top"}
    }
    assert provenance(out)["answered"]["version"] == "1"


@pytest.mark.parametrize("suffix", [".root", ".parquet", ".h5"])
def test_a_missing_score_has_a_missing_flag(job: Job, fake: tuple[Versioned, str], suffix: str) -> None:
    jets = ak.where(ak.local_index(JETS.E, axis=0) == 4, JETS.E * np.nan, JETS.E)
    columns = {f"constituent_{name}": JETS[name] for name in JETS.fields} | {"constituent_E": jets}
    ak.to_parquet(ak.zip(columns, depth_limit=1), job.source, extensionarray=False)
    with metrics_page(page(0.5)) as url:
        run_job(replace(job, output=job.output.with_suffix(suffix), metrics=url, bad="mask"))
    back = columns_of(job.output.with_suffix(suffix))
    expected = (scores_of(fake[1]) > 0.5).tolist()
    if suffix == ".parquet":
        assert back["top_score_wp30"] == [*expected[:4], None, *expected[5:]]
    else:
        assert back["top_score_wp30"] == [*expected[:4], False, *expected[5:]]
        assert back["top_score_wp30_mask"] == [i == 4 for i in range(12)]


def test_jagged_flags(job: Job, fake: tuple[Versioned, str]) -> None:
    events = ak.unflatten(JETS, [3, 0, 5, 4])
    columns = {f"constituent_{name}": events[name] for name in JETS.fields}
    ak.to_parquet(ak.zip(columns, depth_limit=1), job.source, extensionarray=False)
    scores = scores_of(fake[1])
    threshold = float(np.median(scores))
    with metrics_page(page(threshold)) as url:
        run_job(replace(job, output=job.output.with_suffix(".root"), metrics=url, chunk=2))
    flags = columns_of(job.output.with_suffix(".root"))["top_score_wp30"]
    assert flags == ak.unflatten(ak.Array(scores > threshold), [3, 0, 5, 4]).to_list()


def test_the_comparison_is_exact(job: Job, fake: tuple[Versioned, str]) -> None:
    """A threshold just below a float32 score, which rounds to that score, is passed by it."""
    score = float(scores_of(fake[1])[0])
    with metrics_page(page(math.nextafter(score, 0.0))) as url:
        run_job(replace(job, metrics=url))
    assert columns_of(job.output)["top_score_wp30"][0] is True


def test_an_efficiency_that_is_not_there_names_those_that_are(job: Job, tmp_path: Path) -> None:
    card = write_card(tmp_path / "version", 0.8)
    with raises_before_any_chunk(WorkingPointError, r"no working point 0\.25 .*there are: 0\.3, 0\.5", job):
        run_job(replace(job, card=card, working_points=(0.25,)))
    with (
        metrics_page(page(0.8)) as url,
        raises_before_any_chunk(WorkingPointError, r"no working point 0\.25 .*of version 1; there are: 0\.3", job),
    ):
        run_job(replace(job, metrics=url, working_points=(0.25,)))
    with raises_before_any_chunk(WorkingPointError, "there are: none; --card", job):
        run_job(job)


def test_thresholds_are_the_answering_versions(job: Job, fake: tuple[Versioned, str], tmp_path: Path) -> None:
    both = page(0.8, version="1") + page(0.4, version="2")
    scores = scores_of(fake[1])
    for version, threshold in (("1", 0.8), ("2", 0.4)):
        fake[0].version = version
        with metrics_page(both) as url:
            run_job(replace(job, metrics=url), overwrite=True)
        assert columns_of(job.output)["top_score_wp30"] == (scores > threshold).tolist()
    job.output.unlink()
    card = write_card(tmp_path / "one", 0.8, version="1")
    with raises_before_any_chunk(WorkingPointError, "is of version 1, and 2 answers", job):
        run_job(replace(job, card=card))
    with pytest.raises(ConfigurationError, match="exclude --any-version"):
        replace(job, any_version=True)


def test_a_threshold_that_changes_in_a_job_stops_it(job: Job, fake: tuple[Versioned, str]) -> None:
    with metrics_page(page(0.8)) as url:

        def interrupt(_events: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_job(replace(job, metrics=url), done=interrupt)
    with metrics_page(page(0.7)) as url, pytest.raises(VersionError, match=r"threshold 0\.3 0\.8 then, 0\.7 now"):
        run_job(replace(job, metrics=url))
    with metrics_page(page(0.8, temperature="2.0")) as url, pytest.raises(VersionError, match=r"temperature 1\.0 then"):
        run_job(replace(job, metrics=url))
    with metrics_page(page(0.8)) as url:
        assert run_job(replace(job, metrics=url)).resumed_events == 5
    assert columns_of(job.output)["top_score_wp30"] == (scores_of(fake[1]) > 0.8).tolist()


def test_a_card_is_converted_to_the_scale_of_the_service(job: Job, tmp_path: Path) -> None:
    """At temperature 2 the logit is half: of 0.8, with odds of 4 to 1, comes 2/3."""
    card = write_card(tmp_path / "version", 0.8, temperature=2.0)
    scaled = gauge("fpga_model_info", **MODEL, version="1", device="cpu", temperature="2.0")
    for metrics, threshold in ((scaled, 2 / 3), (scaled.replace(',temperature="2.0"', ""), 0.8)):
        with metrics_page(metrics) as url, Client(job.url, metrics_url=url) as client:
            point = client.working_point(0.3, card=card)
        assert point.threshold == pytest.approx(threshold, rel=1e-12)
    with Client(job.url) as client:  # the server's configuration says that nothing is scaled
        assert client.working_point(0.3, card=card.parent) == WorkingPoint(0.3, 0.8)


class Closed(Versioned):
    """Shows no configurations."""

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not shown")


class Scaling(Versioned):
    """Says in its configuration that it scales."""

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        answer = pb.ModelConfigResponse(config={"name": request.name, "max_batch_size": 8})
        answer.config.parameters["temperature_scaling"].string_value = "true"
        return answer


def test_scaled_scores_are_not_mixed_with_a_local_models(job: Job, tmp_path: Path) -> None:
    local = write_repository(tmp_path / "local") / "top_tagger" / "1" / "model.onnx"
    with serving(Scaling()) as (_, address):
        mixed = replace(
            job, url=f"grpc://{address}/top_tagger", working_points=(), options=Options(fallback=LocalModel(local))
        )
        with raises_before_any_chunk(ConfigurationError, r"scales its scores .* a local model .* would not", mixed):
            run_job(mixed)
        card = write_card(tmp_path / "version", 0.8, temperature=2.0)
        with Client(mixed.url) as client:
            point = client.working_point(0.3, card=card)
    assert (point.temperature, point.threshold) == (2.0, pytest.approx(2 / 3, rel=1e-12))


def test_a_scale_that_changes_between_chunks_stops_the_job(job: Job) -> None:
    one = gauge("fpga_model_info", **MODEL, version="1", device="cpu")
    plain = replace(job, working_points=())

    def interrupt(_events: int) -> None:
        raise KeyboardInterrupt

    with metrics_page(one) as url, pytest.raises(KeyboardInterrupt):
        run_job(replace(plain, metrics=url), done=interrupt)
    scaled = gauge("fpga_model_info", **MODEL, version="1", device="cpu", temperature="2.0")
    with metrics_page(scaled) as url, pytest.raises(VersionError, match=r"temperature 1\.0 then, 2\.0 now"):
        run_job(replace(plain, metrics=url))


def test_nothing_is_guessed_of_the_scale(tmp_path: Path) -> None:
    card = write_card(tmp_path / "version", 0.8)
    with (
        serving(Closed()) as (_, address),
        Client(f"grpc://{address}/top_tagger") as client,
        pytest.raises(WorkingPointError, match="shows neither metrics nor"),
    ):
        client.working_point(0.3, card=card)


@pytest.mark.parametrize(("efficiency", "words"), [(0.0, "between 0 and 1"), (30.0, "between 0 and 1")])
def test_an_efficiency_is_a_fraction(job: Job, efficiency: float, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        replace(job, working_points=(efficiency,))
    with pytest.raises(ConfigurationError, match="once"):
        replace(job, working_points=(0.3, 0.3))


def test_a_cut_of_another_class_is_refused(job: Job) -> None:
    with metrics_page(page(0.8)) as url, pytest.raises(WorkingPointError, match="on the score of 'top', not of 'qcd'"):
        run_job(replace(job, metrics=url, label="qcd"))


def test_the_command_says_the_cut(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    command.register(parser)
    with metrics_page(page(0.75)) as url:
        arguments = [str(job.source), "--out", str(job.output), "--server", job.url, "--working-point", "0.3"]
        assert command.run(parser.parse_args([*arguments, "--metrics", url])) == 0
    text = " ".join(capsys.readouterr().err.split())
    assert "top_score_wp30: top_score above 0.75 (efficiency 0.3 of top, version 1)" in text


# ---- the card


def test_a_cut_at_another_temperature_passes_the_same_jets() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 10_000)
    point = WorkingPoint(0.3, 0.9)
    passing = 1 / (1 + np.exp(-logits)) > 0.9
    for temperature in (0.6, 1.0, 1.7, 4.0):
        scaled = 1 / (1 + np.exp(-logits / temperature))
        assert ((scaled > point.at(temperature).threshold) == passing).all()
        assert point.at(temperature).at(1.0).threshold == pytest.approx(0.9, rel=1e-12)
    with pytest.raises(ModelError, match="cannot be told apart"):
        point.at(0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"working_points": {"points": {"0.3": {"threshold": 1.5}}}}, "a threshold between 0 and 1"),
        ({"working_points": {"points": {"0.3": {"threshold": float("nan")}}}}, "a threshold between 0 and 1"),
        ({"working_points": {"points": {"0.3": {}}}}, "make no sense"),
        ({"working_points": {"network": "other", "points": {}}}, "another network"),
        ({"working_points": {"rule": 1, "points": {}}}, "another network or rule"),
        ({"temperature": {"value": 0}}, "a number above 0"),
        ({"temperature": {"value": "warm"}}, "make no sense"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    (tmp_path / "model_card.json").write_text(json.dumps({**MODEL, "files": {"model.onnx": "sha256:a"}, **change}))
    with pytest.raises(ModelError, match=words):
        read_calibration(tmp_path / "model_card.json")


# ---- the real server

SCALING = 'parameters { key: "temperature_scaling" value { string_value: "true" } }\n'


def write_service(folder: Path, temperature: float | None, threshold: float = 0.5) -> Path:
    """The tests' tagger with a card; with a temperature, scaled by it."""
    repository = write_repository(folder)
    write_card(repository / "top_tagger" / "1", threshold, temperature=temperature)
    if temperature is not None:
        config = repository / "top_tagger" / "config.pbtxt"
        config.write_text(config.read_text() + SCALING)
    return repository


@pytest.mark.server
def test_a_real_server_scales_scores_and_thresholds(job: Job, tmp_path: Path) -> None:
    plain: np.ndarray | None = None
    jets = narrow_jets(40, seed=4, most=40)
    file = write_repository(tmp_path / "local") / "top_tagger" / "1" / "model.onnx"
    with fpga_ops.load(file, "reference", max_batch=12) as network:
        tensor = {"constituents": next(prepare(JETS).chunks(12))}
        cut = float(np.median(network.run(tensor)["probabilities"][:, 1].astype(np.float64)))
    for temperature in (None, 1.8):
        repository = write_service(tmp_path / f"models{temperature}", temperature, cut)
        with TritonServer(repository, auto_complete=None) as server:
            url = f"triton+grpc://{server.grpc_url}/top_tagger"
            with Client(url) as client:
                rows = np.asarray(client.probabilities(jets))
                point = client.working_point(0.3)
                tensor = {"constituents": next(prepare(jets).chunks(8))}
                raw = client.infer(tensor, parameters={"raw_scores": True}).outputs["probabilities"]
                assert client.infer(tensor).provenance.get("temperature") == (None if temperature is None else "1.8")
                with pytest.raises(WorkingPointError, match=r"there are: 0\.3, 0\.5"):
                    client.working_point(0.7)
            run_job(replace(job, url=url, output=tmp_path / "out.root", metrics=server.metrics_url), overwrite=True)
        flags = columns_of(tmp_path / "out.root")
        assert flags["top_score_wp30"] == (np.array(flags["top_score"]) > point.threshold).tolist()
        if plain is None:
            plain, passing = rows, flags["top_score_wp30"]
            assert point == WorkingPoint(0.3, cut)
            assert sum(passing) == 6
            continue
        powers = plain.astype(np.float64) ** (1 / 1.8)
        np.testing.assert_allclose(rows, powers / powers.sum(axis=1, keepdims=True), rtol=1e-6)
        assert not np.array_equal(rows, plain)
        assert point.temperature == 1.8
        assert point.threshold == pytest.approx(1 / (1 + math.exp(-math.log(cut / (1 - cut)) / 1.8)), rel=1e-12)
        assert flags["top_score_wp30"] == passing, "the same jets pass, whatever the scale"
        assert provenance(tmp_path / "out.root")["answered"]["temperature"] == "1.8"
        np.testing.assert_array_equal(raw, plain[: len(raw)])


@pytest.mark.server
def test_scaling_without_a_temperature_is_refused_at_the_load(tmp_path: Path) -> None:
    repository = write_service(tmp_path / "models", 2.0)
    write_card(repository / "top_tagger" / "1", 0.5)
    with TritonServer(repository, auto_complete=None) as server:
        (state,) = (one for one in server.control.index() if one["name"] == "top_tagger")
    assert state["state"] == "UNAVAILABLE"
    assert "temperature_scaling: model_card.json holds no temperature; fit one" in state["reason"]


def test_batches_have_flags_too(job: Job) -> None:
    with metrics_page(page(0.5)) as url:
        run_job(replace(job, metrics=url, options=Options(batch_size=3)))
    assert len(columns_of(job.output)["top_score_wp30"]) == 12
