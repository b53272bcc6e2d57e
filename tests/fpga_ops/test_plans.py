"""A model that was loaded before comes from its kept plan, with the same answers, and never those of anything else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

import fpga_ops
from fpga_ops.errors import ModelError
from fpga_ops.plan_cache import cache as cache_module
from fpga_ops.plan_cache import serialise
from fpga_ops.vector import isa
from tests.fpga_ops.onnx_models import quantise, resnet

pytestmark = pytest.mark.skipif(
    not any(info.name == "cpu" and info.usable for info in fpga_ops.devices()), reason="no OpenCL CPU device"
)

IMPORTED = "import of the file"


@pytest.fixture(scope="module", autouse=True)
def _no_set_is_forced():
    """These tests force instruction sets of their own, beside the one that is chosen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FPGA_OPS_ISA", raising=False)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A cache with the compiled programs of the models below and no plan."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture
def cache(built, tmp_path):
    folder = tmp_path / "cache"
    shutil.copytree(built, folder)
    yield folder
    for program in folder.glob("*"):
        if not program.name.startswith("plan-"):
            shutil.copy(program, built)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A model whose end onnxruntime runs."""
    return quantise(resnet(softmax=True), tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A model with parts before and after the integer network that onnxruntime runs."""
    model = resnet()
    stem = [model.graph.node[i].name for i in range(3)]
    return quantise(model, tmp_path_factory.mktemp("model") / "model.onnx", exclude=[*stem, model.graph.node[-1].name])


def images(count=2):
    return {"images": np.random.default_rng(0).normal(0, 1, (count, 3, 32, 32)).astype(np.float32)}


def answers(file, cache, device="cpu"):
    """All that a loaded network says, as bytes."""
    with fpga_ops.load(file, device, max_batch=2, cache_dir=cache) as network:
        scores = [network.run(images(count)) for count in (1, 2)]
        values = [*scores, network.features(images())]
        described = network.describe()
    return described, [{name: (v.dtype, v.shape, v.tobytes()) for name, v in each.items()} for each in values]


@pytest.fixture
def imports(monkeypatch):
    """A list that gets an entry for each file that is imported."""
    import fpga_ops.importer as importer

    seen, real = [], importer.import_original
    monkeypatch.setattr(importer, "import_original", lambda path: seen.append(IMPORTED) or real(path))
    return seen


def entry(cache: Path) -> Path:
    (path,) = cache.glob("plan-*.bin")
    return path


@pytest.mark.parametrize("model", ["classifier", "outside"])
def test_a_kept_plan_gives_the_same_answers(model, cache, imports, request):
    file = request.getfixturevalue(model)
    first = answers(file, cache)
    assert imports == [IMPORTED]
    assert answers(file, cache) == first
    assert imports == [IMPORTED]
    described, bits = answers(file, cache, "reference")
    assert bits == first[1]
    own = {name: first[0][name] for name in ("device", "kernel", "isa")}
    assert first[0]["isa"] in [entry.name for entry in isa.SETS]
    assert described["isa"] == ""
    assert described | own == first[0]


def test_plans_of_the_fallback_are_its_own(classifier, cache, imports, monkeypatch):
    expected = answers(classifier, cache)
    monkeypatch.setenv(isa.ISA_VARIABLE, "portable")
    described, bits = answers(classifier, cache)
    assert bits == expected[1]
    assert answers(classifier, cache) == (described, bits)
    assert len(imports) == 2


def test_a_cached_load_imports_neither_onnx_nor_onnxruntime(cache, tmp_path):
    file = quantise(resnet(), tmp_path / "model.onnx")
    answers(file, cache)
    program = (
        "import sys, fpga_ops\n"
        f"fpga_ops.load({str(file)!r}, 'cpu', max_batch=2, cache_dir={str(cache)!r}).close()\n"
        "print([name for name in ('onnx', 'onnxruntime', 'google.protobuf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def damage(content: bytes, how: str) -> bytes:
    if how == "empty":
        return b""
    if how == "truncated":
        return content[: len(content) // 2]
    if how == "longer":
        return content + b"\0"
    place = {"first byte": 0, "weights": len(content) // 3, "header": -200, "length": -40, "sum": -1}[how]
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("how", ["empty", "truncated", "longer", "first byte", "weights", "header", "length", "sum"])
def test_a_damaged_plan_is_made_again(classifier, cache, imports, caplog, how):
    caplog.set_level("INFO", "fpga_ops")
    expected = answers(classifier, cache)
    place = entry(cache)
    sound = place.read_bytes()
    place.write_bytes(damage(sound, how))
    assert answers(classifier, cache) == expected
    assert len(imports) == 2
    assert place.read_bytes() == sound
    assert "damaged and is made again" in caplog.text


def rewritten(place: Path, change) -> None:
    """Change an entry's JSON and make its check sum right, as another program might."""
    import hashlib
    import struct

    content = place.read_bytes()
    ending = struct.Struct("<16sQ32s")
    mark, length, _ = ending.unpack(content[-ending.size :])
    header = json.loads(content[-ending.size - length : -ending.size])
    change(header)
    text = json.dumps(header).encode()
    body = content[: -ending.size - length] + text + ending.pack(mark, len(text), b"")[:-32]
    place.write_bytes(body + hashlib.sha256(body).digest())


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.update(entry="plan-0.bin"),
        lambda header: header.pop("plan"),
        lambda header: header.update(plan=["Contents"]),
        lambda header: header.update(plan=["Popen", "true"]),
        lambda header: header.update(plan=header["contents"]),
        lambda header: header.update(plan=["array", 0, "|O", [8]]),
        lambda header: header.update(plan=["array", 1 << 40, "<i8", [8]]),
        lambda header: header["plan"].__setitem__(-1, "another device"),
    ],
)
def test_a_foreign_plan_is_made_again(classifier, cache, imports, change):
    expected = answers(classifier, cache)
    rewritten(entry(cache), change)
    assert answers(classifier, cache) == expected
    assert len(imports) == 2


@pytest.mark.parametrize("what", ["code", "cores", "batch", "instruction set", "driver"])
def test_a_plan_is_for_one_setting(classifier, cache, imports, monkeypatch, what):
    _, bits = answers(classifier, cache)
    if what == "code":
        monkeypatch.setattr(cache_module, "_code", lambda: "other code")
    elif what == "cores":
        monkeypatch.setenv("FPGA_OPS_WORKERS", "1")
    elif what == "batch":
        with fpga_ops.load(classifier, "cpu", max_batch=3, cache_dir=cache) as network:
            assert len(network.run(images(3))) == 1
    elif what == "instruction set":
        from fpga_ops.vector import compiler, isa

        monkeypatch.setattr(compiler.isas, "choose", lambda *_: isa.PORTABLE)
    else:
        from fpga_ops.runtime import opencl

        monkeypatch.setattr(opencl.OpenCLDevice, "key", property(lambda device: "of another driver"))
    answers_now = answers(classifier, cache)[1] if what != "batch" else bits
    assert answers_now == bits
    assert len(imports) == 2


def test_another_model_under_the_same_name_is_noticed(cache, imports, tmp_path):
    file = tmp_path / "model.onnx"
    first, second = (quantise(resnet(softmax=True, seed=seed), tmp_path / f"{seed}.onnx") for seed in (0, 1))
    told = []
    for source in (first, second, first):
        shutil.copy(source, file)
        told.append(answers(file, cache))
    assert told[0] == told[2] != told[1]
    assert len(imports) == 2


def test_external_data_belongs_to_the_model(classifier, cache, imports, tmp_path):
    file, weights = tmp_path / "model.onnx", tmp_path / "weights.bin"
    onnx.save(onnx.load(classifier), file, save_as_external_data=True, location=weights.name, size_threshold=1000)
    expected = answers(file, cache)
    assert answers(file, cache) == expected
    assert len(imports) == 1
    content = np.frombuffer(weights.read_bytes(), np.uint8)
    weights.write_bytes((content ^ 1).tobytes())
    assert answers(file, cache)[1] != expected[1]
    assert len(imports) == 2
    weights.unlink()
    with pytest.raises(ModelError, match="which is not there"):
        answers(file, cache)


def test_a_bad_file_gets_no_plan(cache, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x01nonsense")
    for _ in range(2):
        with pytest.raises(ModelError):
            fpga_ops.load(tmp_path / "model.onnx", "cpu", cache_dir=cache)
    assert not list(cache.glob("plan-*"))


def test_two_at_once(classifier, cache):
    """Loads in two processes and two threads, all of which find no plan."""
    answers(classifier, cache)
    entry(cache).unlink()
    program = (
        "import sys, fpga_ops, numpy as np\n"
        f"with fpga_ops.load({str(classifier)!r}, 'cpu', max_batch=2, cache_dir={str(cache)!r}) as network:\n"
        "    print(network.describe()['network'])"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: answers(classifier, cache), range(2)))
    printed = [process.communicate(timeout=100)[0].strip() for process in processes]
    assert found[0] == found[1] == answers(classifier, cache)
    assert printed == [found[0][0]["network"]] * 2
    assert [path.name for path in cache.iterdir() if path.name.startswith(("plan-", "tmp"))] == [entry(cache).name]


def test_old_plans_make_room(classifier, outside, cache, monkeypatch):
    answers(classifier, cache)
    size = entry(cache).stat().st_size
    monkeypatch.setattr(cache_module, "MOST_BYTES", size + 1000)
    answers(outside, cache)
    assert len(list(cache.glob("plan-*"))) == 1


def test_a_full_disc_costs_only_the_cache(classifier, cache, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    expected = answers(classifier, cache)
    entry(cache).unlink()
    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    assert answers(classifier, cache) == expected
    assert not list(cache.glob("plan-*"))


def test_values_come_back_as_they_were():
    arrays = serialise.Arrays(64)
    value = {"a": (1, 2.5, None, True, "x"), "b": [frozenset({"p", "q"})], "c": b"bytes", "d": (), "e": {}}
    stored = json.loads(json.dumps(serialise.encode(value, arrays)))
    came = serialise.decode(stored, memoryview(b"".join(arrays.chunks)))
    assert came == value
    with pytest.raises(TypeError, match="is not stored"):
        serialise.encode(Path(), arrays)
