"""`load`, `run`, `submit`, `describe`: the interface that servers and notebooks use."""

from __future__ import annotations

import multiprocessing
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

import fpga_ops
from fpga_ops import DeviceError, InputError, ModelError
from fpga_ops.errors import NotFiniteError
from fpga_ops.importer import import_model
from fpga_ops.ir.fingerprint import fingerprint
from fpga_ops.loading import make
from fpga_ops.network import Network
from tests.fpga_ops.onnx_models import quantise, resnet


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return quantise(resnet(softmax=True), tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture
def network(file):
    with fpga_ops.load(file, "reference", max_batch=4) as loaded:
        yield loaded


def batch(count=2, seed=0):
    return {"images": np.random.default_rng(seed).normal(0, 1, (count, 3, 32, 32)).astype(np.float32)}


def test_describe(network):
    described = network.describe()
    assert described["inputs"] == {"images": {"dtype": "float32", "shape": [-1, 3, 32, 32]}}
    assert list(described["outputs"].values()) == [{"dtype": "float32", "shape": [-1, 10]}]
    assert described["device"] == "reference"
    assert described["precision"] == "int8"
    assert set(described["partition"]) == {"before", "device", "after"}
    assert len(described["network"]) == 64
    assert described["kernel"]


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_what_is_described_may_be_changed(device, file, tmp_path):
    """It was the very dictionary by which inputs are checked. A CPU's short way takes no array for one either."""
    with fpga_ops.load(file, device, cache_dir=tmp_path) as network:
        network.describe()["inputs"].clear()
        assert network.run(batch(1))
        with pytest.raises(InputError, match="dictionary"):
            network.run(batch(1)["images"])


@pytest.mark.parametrize("size", [0, 2.5, True, "8", None])
def test_a_batch_is_a_whole_number(size, file):
    with pytest.raises(InputError, match=f"max_batch is {size!r}; a whole number, at least 1, is needed"):
        fpga_ops.load(file, "reference", max_batch=size)


def test_run_is_the_same_whatever_the_batch(network):
    inputs = batch(4)
    together = network.run(inputs)
    for index in range(4):
        alone = network.run({"images": inputs["images"][index : index + 1]})
        for name, value in together.items():
            np.testing.assert_array_equal(alone[name][0], value[index])


def test_inputs_need_not_be_contiguous(network):
    inputs = batch()["images"]
    turned = np.asfortranarray(inputs)
    expected, got = network.run({"images": inputs}), network.run({"images": turned})
    for name, value in expected.items():
        np.testing.assert_array_equal(value, got[name])


def wrong(value, match, name="images"):
    return pytest.param({name: value}, match, id=match[:30])


def holed(value):
    image = np.zeros((2, 3, 32, 32), np.float32)
    image[1, 2, 3, 4] = value
    return image


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ({}, r"inputs \['images'\] are expected, \[\] came"),
        wrong(batch()["images"], r"\['picture'\] came", "picture"),
        pytest.param({"images": 0, 5: 0}, r"\[5, 'images'\] came", id="mixed"),
        pytest.param(
            batch()["images"], r"dictionary with arrays for \['images'\] is expected, ndarray came", id="array"
        ),
        pytest.param(None, "is expected, NoneType came", id="nothing"),
        wrong([[1.0]], "numpy array is expected, list came"),
        wrong(np.ma.masked_less(batch()["images"], 0.0), "without masked values is expected"),
        wrong(batch()["images"].astype(np.float64), "dtype float32 is expected, float64 came"),
        wrong(batch()["images"].astype(">f4"), "float32 in this machine's byte order is expected, >f4 came"),
        wrong(batch()["images"].astype(np.uint8), "float32 is expected, uint8 came"),
        wrong(batch()["images"].transpose(0, 2, 3, 1), r"\[-1, 3, 32, 32\] is expected, \[2, 32, 32, 3\] came"),
        wrong(batch()["images"][0], r"expected, \[3, 32, 32\] came"),
        wrong(batch(5)["images"], "batch of 1 to 4 is expected, 5 came"),
        wrong(batch(1)["images"][:0], "batch of 1 to 4 is expected, 0 came"),
        wrong(holed(np.nan), r"finite values are expected, nan came at \[1, 2, 3, 4\]"),
        wrong(holed(-np.inf), r"finite values are expected, -inf came at \[1, 2, 3, 4\]"),
    ],
)
def test_wrong_inputs_are_named(network, inputs, match):
    with pytest.raises(InputError, match=match):
        network.run(inputs)
    with pytest.raises(InputError, match=match):
        network.features(inputs)
    with pytest.raises(InputError, match=match):
        network.submit(inputs).result()


def test_huge_finite_values_saturate(network):
    outputs = network.run({"images": np.full((1, 3, 32, 32), 3e38, np.float32)})
    assert all(np.isfinite(value).all() for value in outputs.values())


def test_submit_from_many_threads(network):
    requests = [batch(1 + seed % 4, seed) for seed in range(12)]
    expected = [network.run(request) for request in requests]
    futures = [network.submit(request) for request in requests]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(network.run, requests))
    for want, future, other in zip(expected, futures, threaded, strict=True):
        for name, value in want.items():
            np.testing.assert_array_equal(future.result()[name], value)
            np.testing.assert_array_equal(other[name], value)


@pytest.mark.parametrize("rest", [False, True], ids=["head", "onnxruntime"])
def test_one_image_takes_the_short_way(rest, tmp_path):
    """Nodes before the network, and after it too; from one thread, from many, and with values that are not finite."""
    if not any(info.name == "cpu" and info.usable for info in fpga_ops.devices()):
        pytest.skip("no OpenCL CPU device")
    model = resnet(softmax=True)
    names = [node.name for node in model.graph.node]
    path = quantise(model, tmp_path / "m.onnx", exclude=[*names[:3], *(names[-2:] if rest else names[-1:])])
    images = [batch(1, seed) for seed in range(4)]
    with fpga_ops.load(path, "reference") as network:
        expected = [network.run(image) for image in images]
    with fpga_ops.load(path, "cpu", cache_dir=tmp_path) as network:
        assert network.contents.before.model
        assert bool(network.contents.after.model) or not rest

        def work(number):
            came = network.run(images[number % 4])
            return all(np.array_equal(came[name], value) for name, value in expected[number % 4].items())

        assert all(map(work, range(8)))
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(80)))
        for value in (np.nan, np.inf):
            with pytest.raises(InputError, match=r"came at \[0, 2, 3, 4\]"):
                network.run({"images": holed(value)[1:]})
        assert work(0)
    with pytest.raises(DeviceError, match="closed"):
        network.run(images[0])


@pytest.mark.parametrize("device", ["reference", "cpu", pytest.param("fpga-emulator", marks=pytest.mark.emulator)])
def test_what_the_files_own_nodes_make_must_be_finite(device, tmp_path):
    """A convolution in float32 before the network overflows, of finite values: no device makes scores of it."""
    model = resnet(softmax=True)
    path = quantise(model, tmp_path / "m.onnx", exclude=[node.name for node in model.graph.node[:3]])
    huge = batch(2)
    huge["images"][1] = np.where(huge["images"][1] < 0, -3e38, 3e38)
    with fpga_ops.load(path, device, cache_dir=tmp_path) as network:
        assert network.contents.before.model
        for rows in (slice(1, 2), slice(0, 2)):
            for call in (network.run, network.features):
                with pytest.raises(NotFiniteError, match="nodes before the integer network make NaN or infinities"):
                    call({"images": huge["images"][rows]})
        assert all(np.isfinite(value).all() for value in network.run({"images": huge["images"][:1]}).values())


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_what_the_files_own_nodes_make_of_an_answer_is_a_number(device, file, tmp_path):
    """As in a tagger, whose scores take float features of the input besides: those overflow of finite values."""
    model = onnx.load(file)
    answer = model.graph.output[0].name
    axes = onnx.numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes")
    column = onnx.numpy_helper.from_array(np.array([-1, 1], np.int64), "column")
    model.graph.initializer.extend([axes, column])
    for operator, inputs, output in (
        ("Mul", ["images", "images"], "squares"), ("ReduceSum", ["squares", "axes"], "sums"),
        ("Sub", ["sums", "sums"], "zeros"), ("Reshape", ["zeros", "column"], "more"), ("Add", [answer, "more"], "sum"),
    ):  # fmt: skip
        model.graph.node.append(onnx.helper.make_node(operator, inputs, [output]))
    model.graph.node[-4].attribute.append(onnx.helper.make_attribute("keepdims", 0))
    model.graph.output[0].name = "sum"
    onnx.save(model, tmp_path / "model.onnx")
    huge = batch(3)
    huge["images"][1] = 3e38
    with fpga_ops.load(tmp_path / "model.onnx", device, cache_dir=tmp_path) as network:
        assert "images" in network.contents.after.inputs
        match = r"nodes after the integer network make NaN of this images \(output 'sum', row 1\)"
        with pytest.raises(NotFiniteError, match=match):
            network.run(huge)
        with pytest.raises(NotFiniteError, match="row 0"):
            network.run({"images": huge["images"][1:2]})
        assert network.run({"images": huge["images"][::2]})["sum"].sum() == pytest.approx(2.0, abs=0.02)


def test_close(file):
    network = fpga_ops.load(file, "reference")
    future = network.submit(batch())
    network.close()
    network.close()
    assert future.result()
    for call in (network.run, network.submit, network.features):
        with pytest.raises(DeviceError, match="closed"):
            call(batch())


def in_a_fork(call):
    """What `call` gives in a forked process, or its DeviceError; "nothing" after 60 s."""
    here, there = multiprocessing.Pipe(duplex=False)

    def child():
        try:
            there.send(call())
        except DeviceError as error:
            there.send(f"DeviceError: {error}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads, which is the point
        process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
        process.start()
    said = here.recv() if here.poll(60) else "nothing"
    process.kill()
    process.join()
    return said


def test_submit_works_in_a_fork(network):
    """The threads of its pool are not there: what was submitted was never done."""
    expected = network.submit(batch()).result()
    said = in_a_fork(lambda: network.submit(batch()).result(50))
    np.testing.assert_equal(said, expected)
    in_a_fork(network.close)
    np.testing.assert_equal(network.submit(batch()).result(), expected)


@pytest.mark.emulator
def test_a_device_with_a_process_is_not_shared_by_a_fork(file, tmp_path):
    """The fork took answers that belong to its parent, and both hung."""
    with fpga_ops.load(file, "fpga-emulator", cache_dir=tmp_path) as network:
        expected = network.features(batch(1))
        for _ in range(2):
            assert "DeviceError: fpga-emulator: this process is a fork" in in_a_fork(lambda: network.run(batch(1)))
            assert in_a_fork(network.close) is None
            np.testing.assert_equal(network.features(batch(1)), expected)


def test_devices_are_taken_in_turn_unless_they_say_otherwise(file, monkeypatch):
    """An executable that is not thread-safe is never entered twice."""
    inside = threading.Semaphore(1)

    class Fragile:
        def __init__(self, network):
            from fpga_ops.ir.reference import ReferenceExecutable

            self.real = ReferenceExecutable(network)

        def run(self, inputs):
            assert inside.acquire(blocking=False)
            try:
                return self.real.run(inputs)
            finally:
                inside.release()

        def close(self):
            pass

    monkeypatch.setattr("fpga_ops.targets.compile_network", lambda network, *rest: Fragile(network))
    with make(import_model(file), "cpu") as network:
        for future in [network.submit(batch(1, seed)) for seed in range(8)]:
            future.result()


def test_a_failed_device_does_not_spoil_the_model(file, monkeypatch):
    class Lost:
        def run(self, inputs):
            raise DeviceError("device lost")

        def close(self):
            pass

    partition = import_model(file)
    with monkeypatch.context() as patch:
        patch.setattr("fpga_ops.targets.compile_network", lambda *arguments: Lost())
        with make(partition, "cpu") as network, pytest.raises(DeviceError, match="lost"):
            network.run(batch())
    with make(partition, "reference") as network:
        assert network.run(batch())


def test_unknown_devices_and_files(file, tmp_path):
    with pytest.raises(DeviceError, match="no device 'abacus'"):
        fpga_ops.load(file, "abacus")
    with pytest.raises(ModelError, match="cannot read"):
        fpga_ops.load(tmp_path / "none.onnx", "reference")
    with pytest.raises(InputError, match="max_batch"):
        fpga_ops.load(file, "reference", max_batch=0)


def test_fingerprint_names_the_content(file, tmp_path):
    one = import_model(file).network
    again = import_model(file).network
    other = import_model(quantise(resnet(softmax=True, seed=1), tmp_path / "m.onnx")).network
    assert fingerprint(one) == fingerprint(again) != fingerprint(other)


def test_package_shows_its_interface():
    import fpga_ops.devices

    assert callable(fpga_ops.devices)
    assert fpga_ops.Network is Network
    for name in fpga_ops.__all__:
        assert getattr(fpga_ops, name) is not None
    with pytest.raises(AttributeError):
        fpga_ops.nothing  # noqa: B018
