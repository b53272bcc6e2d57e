"""The shipped taggers through the real server, over HTTP and gRPC: the same numbers, and every bad input by name."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

import fpga_ops
from fpga_ops.calibration import CARD_FILE, read_calibration
from sonic_client import Client
from sonic_client.tag_file import Job, run_job
from tests.e2e.conftest import MODEL_REPOSITORY, Service, serving

pytestmark = pytest.mark.server

TAGGERS = {"resnet50_top": ("images", (3, 224, 224)), "top_tagger": ("constituents", (200, 4))}


@pytest.fixture(scope="module")
def service() -> Service:
    with serving(MODEL_REPOSITORY, "--no-watch") as running:
        yield running


def newest(model: str) -> Path:
    return max((path for path in (MODEL_REPOSITORY / model).glob("[0-9]*")), key=lambda path: int(path.name))


def golden(model: str) -> dict[str, np.ndarray]:
    with np.load(newest(model) / "golden.npz", allow_pickle=False) as archive:
        return {name: archive[name][:8] for name in archive if archive[name].ndim}  # "rule" is a number


@pytest.fixture(params=TAGGERS)
def tagger(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(service: Service, kind: str, model: str, values: np.ndarray, **options: Any) -> np.ndarray:
    return service.infer(kind, model, values, TAGGERS[model][0], "probabilities", **options)


def test_metadata_is_the_contract(service: Service, tagger: str) -> None:
    name, shape = TAGGERS[tagger]
    metadata = service.client("http").get_model_metadata(tagger)
    assert metadata["inputs"] == [{"name": name, "datatype": "FP32", "shape": [-1, *shape]}]
    assert metadata["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}]
    assert (MODEL_REPOSITORY / tagger / "labels.txt").read_text().split() == ["qcd", "top"]


def test_http_and_grpc_agree_with_the_bare_call(service: Service, tagger: str) -> None:
    values = golden(tagger)["input"]
    with fpga_ops.load(newest(tagger) / "model.onnx") as network:
        bare = network.run({TAGGERS[tagger][0]: values})["probabilities"]
    answers = {kind: ask(service, kind, tagger, values) for kind in ("http", "grpc")}
    for answer in answers.values():
        np.testing.assert_array_equal(answer, bare)
        np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(answer, golden(tagger)["probabilities"][: len(values)], atol=1e-4)


def test_rows_do_not_depend_on_their_batch(service: Service, tagger: str) -> None:
    values = golden(tagger)["input"]
    together = ask(service, "grpc", tagger, values)
    for row in range(len(values)):
        np.testing.assert_array_equal(ask(service, "grpc", tagger, values[row : row + 1])[0], together[row])


def test_both_taggers_give_the_device_the_same_image_of_the_same_jet() -> None:
    """The image that the server makes of constituents is the image that training made; only the heads differ."""
    integers = []
    for model, (name, _) in TAGGERS.items():
        with fpga_ops.load(newest(model) / "model.onnx") as network:
            (features,) = network.features({name: golden(model)["input"]}).values()
        integers.append(features)
    np.testing.assert_array_equal(*integers)


def test_what_answers_is_told(service: Service, tagger: str) -> None:
    result = service.client("http").get_model_config(tagger)
    assert result["backend"] == "fpga"
    service.wait_for(lambda: service.metric("fpga_model_info", f'model="{tagger}"', 'precision="int8"') == 1)
    before = service.metric("fpga_inferences_total", f'model="{tagger}"')
    ask(service, "grpc", tagger, golden(tagger)["input"][:2])
    service.wait_for(lambda: service.metric("fpga_inferences_total", f'model="{tagger}"') >= before + 2)
    assert service.metric("fpga_device_seconds_total", f'model="{tagger}"') > 0
    entry = next(entry for entry in service.status()["models"] if entry["model"] == tagger)
    assert entry["version"] == newest(tagger).name
    assert entry["device"]
    assert entry["precision"] == "int8"


def test_cuts_of_a_fresh_clone(service: Service, tmp_path: Path) -> None:
    """`triton-fpga tag --working-point`, by the thresholds that are shipped."""
    rows = golden("top_tagger")["input"]
    lists = {f"constituent_{name}": [row[row[:, 0] > 0][:, i] for row in rows]
             for i, name in enumerate(("E", "px", "py", "pz"))}  # fmt: skip
    ak.to_parquet(ak.zip(lists, depth_limit=1), tmp_path / "in.parquet")
    url = f"triton+http://{service.urls['http']}/top_tagger"
    cuts = {"top_score_wp30": 0.3, "top_score_wp50": 0.5}
    run_job(Job(tmp_path / "in.parquet", tmp_path / "out.parquet", url, working_points=tuple(cuts.values())))
    tagged = ak.from_parquet(tmp_path / "out.parquet")
    points = read_calibration(newest("top_tagger") / CARD_FILE).points
    for name, efficiency in cuts.items():
        passing = ak.to_numpy(tagged["top_score"]).astype(float) > points[f"{efficiency:g}"].threshold
        assert tagged[name].to_list() == passing.tolist()
    assert not all(tagged["top_score_wp50"])
    assert any(tagged["top_score_wp50"])


def test_a_reply_says_what_the_engine_says_of_itself(service: Service, tagger: str) -> None:
    """Also the instruction set of a CPU, by the answer or by the metrics, whichever this Triton has."""
    name, _ = TAGGERS[tagger]
    with fpga_ops.load(newest(tagger) / "model.onnx") as network:
        described = network.describe()
    expected = {key: described[key] for key in ("device", "precision", "kernel", "isa") if described.get(key)}
    service.wait_for(lambda: service.metric("fpga_model_info", f'model="{tagger}"') == 1)
    with Client(f"triton+grpc://{service.urls['grpc']}/{tagger}") as client:
        said = client.infer({name: golden(tagger)["input"][:1].astype(np.float32)}).provenance
    assert said == expected | {"version": newest(tagger).name}


def bad_inputs(model: str) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Every bad input of the contract, with words that its error must hold."""
    name, shape = TAGGERS[model]
    sound = golden(model)["input"][:1].astype(np.float32)

    def changed(place: Any, value: float) -> np.ndarray:
        values = np.repeat(sound, 3, axis=0)
        values[place] = value
        return values

    limit = 8
    cases = {
        "shape": (np.zeros((1, *shape[:-1], 5), np.float32), [f"'{name}'", "Expected", str(shape[-1]), "5"]),
        "rank": (np.zeros(shape[-1:], np.float32), [model]),
        "dtype": (sound.astype(np.float64), [f"'{name}'", "FP64", "FP32"]),
        "integers": (np.zeros(sound.shape, np.int32), [f"'{name}'", "INT32", "FP32"]),
        "nan": (changed((1, *(0 for _ in shape)), np.nan), [f"'{name}'", "row 1", "finite", "nan"]),
        "inf": (changed((2, *(0 for _ in shape)), np.inf), [f"'{name}'", "row 2", "finite", "inf"]),
        "batch": (np.repeat(sound, limit + 1, axis=0), ["batch-size must be <= 8", model]),
        "no rows": (sound[:0], [f"'{name}'"]),
    }
    if model == "top_tagger":
        swapped = sound.copy()
        swapped[0, [0, 5]] = swapped[0, [5, 0]]
        cases |= {
            "no constituents": (np.zeros_like(sound), [f"'{name}'", "row 0", "at least one constituent"]),
            "unsorted": (swapped, [f"'{name}'", "row 0", "sorted by falling pT"]),
            "negative energy": (changed((1, 1, 0), -1.0), [f"'{name}'", "row 1", "energies of 0 or more", "-1"]),
            "201 constituents": (np.zeros((1, 201, 4), np.float32), [f"'{name}'", "200", "201"]),
        }
    else:
        cases |= {
            "negative pixel": (changed((1, 0, 5, 5), -0.1), [f"'{name}'", "row 1", "0 or more", "-0.1"]),
            "empty image": (changed((1,), 0.0), [f"'{name}'", "row 1", "sum above 0"]),
        }
    return cases


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_bad_input_is_the_callers_error(service: Service, tagger: str, kind: str) -> None:
    for case, (values, words) in bad_inputs(tagger).items():
        with pytest.raises(InferenceServerException) as caught:
            ask(service, kind, tagger, values)
        assert str(caught.value.status()) in ("StatusCode.INVALID_ARGUMENT", "400"), case
        for word in words:
            assert word in str(caught.value), case
    assert ask(service, kind, tagger, golden(tagger)["input"][:1]).shape == (1, 2)


def test_large_payloads(service: Service) -> None:
    values = np.repeat(golden("resnet50_top")["input"][:1], 8, axis=0)  # 4.8 MB
    for kind in ("grpc", "http"):
        assert ask(service, kind, "resnet50_top", values).shape == (8, 2)


def test_a_cancelled_request_disturbs_nobody(service: Service) -> None:
    client = service.client("grpc")
    values = golden("top_tagger")["input"][:1]
    tensor = tritonclient.grpc.InferInput("constituents", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    ended = threading.Semaphore(0)
    count = 20
    calls = [client.async_infer("top_tagger", [tensor], lambda result, error: ended.release()) for _ in range(count)]
    for call in calls[::2]:
        call.cancel()
    for _ in range(count):  # else the next might wait behind them, on a busy machine for longer than the queue allows
        assert ended.acquire(timeout=30)
    assert ask(service, "grpc", "top_tagger", values).shape == (1, 2)


def test_shared_memory(service: Service) -> None:
    from tritonclient.utils import shared_memory

    values = golden("resnet50_top")["input"][:1].astype(np.float32)
    expected = ask(service, "grpc", "resnet50_top", values)
    handle = shared_memory.create_shared_memory_region("images", f"/test-{service.process.pid}", values.nbytes)
    try:
        shared_memory.set_shared_memory_region(handle, [values])
        for kind, module in (("grpc", tritonclient.grpc), ("http", tritonclient.http)):
            client = service.client(kind)
            client.register_system_shared_memory(
                "images", f"/test-{service.process.pid}", values.nbytes, headers=service.admin
            )
            tensor = module.InferInput("images", list(values.shape), "FP32")
            tensor.set_shared_memory("images", values.nbytes)
            answer = client.infer("resnet50_top", [tensor]).as_numpy("probabilities")
            np.testing.assert_array_equal(answer, expected)
            client.unregister_system_shared_memory("images", headers=service.admin)
    finally:
        shared_memory.destroy_shared_memory_region(handle)
