"""The engine against onnxruntime and OpenVINO on the same QDQ file, interleaved in one run, outputs compared.

Every contestant is a process of its own that runs the same model on the same float input, end to end. They take turns
for a few inferences each, round after round, on a quiet machine, so that drift of the clock hits all alike: trust the
ratios of one run, not the times of two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import DeviceError, FpgaOpsError
from fpga_ops.runtime.cache_directory import cache_directory
from fpga_ops.runtime.onnxruntime_import import import_onnxruntime
from triton_fpga_bench import machine
from triton_fpga_bench.engine import peers

if TYPE_CHECKING:
    from fpga_ops.vector import VectorExecutable

WARM_UP = 2
"""Inferences at the start of a turn that do not count: caches are cold after the others' turns."""
PER_TURN = 8
PAUSE_S = 0.02
"""Between turns, for a contestant's threads to stop spinning."""
EVERYTHING = ("latency", "layers", "throughput", "batch", "models", "scaling", "isas")
"""What '--what all' measures."""
GROWTH = "growth"
GROWTH_STEP = 500
"""Inferences between two readings of the memory."""


@dataclass
class Contestant:
    """One peer in its process.

    Attributes:
        name: As in the results.
        process: It.
        info: What it said when ready.
        times: Counted ms, all rounds.
        minima: Best of each round.
        cpu_times: Counted ms of CPU time of all its threads: of use with one thread on a busy machine.
        wrong: Timed inferences whose output was not the expected one.
        inferences: Timed or warm-up inferences whose output was compared.
    """

    name: str
    process: subprocess.Popen[str]
    info: dict[str, Any]
    times: list[float] = field(default_factory=list)
    minima: list[float] = field(default_factory=list)
    cpu_times: list[float] = field(default_factory=list)
    wrong: int = 0
    inferences: int = 0
    resident_mb: float = 0.0

    def turn(self, count: int, warm_up: int) -> None:
        """Run its inferences of one round."""
        answer = _ask(self.process, f"{count + warm_up}\n", self.name)
        counted = answer["ms"][warm_up:]
        self.times += counted
        self.minima.append(min(counted))
        self.cpu_times += answer["cpu_ms"][warm_up:]
        self.wrong += answer["wrong"]
        self.inferences += len(answer["ms"])
        self.resident_mb = answer["rss_mb"]


def _ask(process: subprocess.Popen[str], line: str | None, name: str) -> dict[str, Any]:
    if process.stdin is None or process.stdout is None:
        raise DeviceError(f"benchmark of {name}: its process has no pipes")
    if line is not None:
        process.stdin.write(line)
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer.startswith("{"):
        raise DeviceError(f"benchmark of {name}: its process ended or said '{answer.strip()[:200]}'")
    parsed: dict[str, Any] = json.loads(answer)
    return parsed


def start(
    stack: ExitStack,
    name: str,
    model: Path,
    *,
    batch: int,
    threads: int,
    throughput: bool,
    expected: Path | None,
    meaning: Path | None = None,
) -> Contestant:
    """Start a contestant and wait until it is ready.

    Raises:
        DeviceError: It could not start; the message holds its last words.
    """
    command = [sys.executable, "-W", "ignore", "-m", "triton_fpga_bench.engine.peers", name, str(model)]
    command += ["--batch", str(batch), "--threads", str(threads)]
    command += ["--throughput"] if throughput else []
    command += ["--expected", str(expected)] if expected is not None else []
    command += ["--meaning", str(meaning)] if meaning is not None else []
    search = os.pathsep.join([str(Path(str(files("triton_fpga_bench"))).parent), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": search, "FPGA_OPS_WORKERS": str(threads)}
    if name.startswith("ours_"):
        environment["FPGA_OPS_ISA"] = name.removeprefix("ours_")
    errors = stack.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115 (closed by the stack)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
    )
    stack.callback(_stop, process)
    try:
        info = _ask(process, None, name)
    except DeviceError as error:
        errors.seek(0)
        last = errors.read().strip().splitlines()[-1:] or [str(error)]
        raise DeviceError(f"{name} cannot run: {last[0]}") from error
    return Contestant(name, process, info)


def _stop(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def installed_peers(wanted: list[str]) -> list[str]:
    """Those whose library is installed."""
    module = {"openvino": "openvino", "ort": "onnxruntime", "ours": "fpga_ops"}
    return [name for name in wanted if find_spec(module[name.partition("_")[0]]) is not None]


def race(
    names: list[str], model: Path, floats: Path, *, rounds: int, batch: int = 1, threads: int, throughput: bool = False,
    expected: Path | None = None, meaning: Path | None = None, patience_s: float = 10.0,
    each: dict[str, int] | None = None, label: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Let contestants take turns and sum up.

    Args:
        names: Contestants; those in fp32 and bf16 get `floats`, the others `model`.
        model: The QDQ file.
        floats: The same as a float model.
        rounds: Turns of each.
        batch: Images per inference.
        threads: Cores of each.
        throughput: Time many requests back to back instead of single ones.
        expected: Outputs that ours must give, bit for bit.
        meaning: What the file means (`file_meaning`); how far each contestant is from it is among the results.
        patience_s: How long to wait for a quiet machine before each round.
        each: Cores of single contestants, where they differ.
        label: For the progress bar.
    """
    from rich.progress import Progress

    count, warm_up = (2, 1) if throughput else (PER_TURN, WARM_UP)
    noisy = 0
    with ExitStack() as stack, Progress(transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(label or model.stem, total=rounds + 1)
        field_ = []
        for entry in names:
            name = entry.partition("@")[0]
            path = model if name.startswith("ours") or name.endswith("int8") else floats
            contestant = start(
                stack, name, path, batch=batch, threads=(each or {}).get(entry, threads), throughput=throughput,
                expected=expected if name.startswith("ours") and not throughput else None, meaning=meaning,
            )  # fmt: skip
            contestant.name = entry
            field_.append(contestant)
        progress.advance(task)
        for _ in range(rounds):
            noisy += not machine.wait_until_quiet(patience_s)
            for contestant in field_:
                contestant.turn(count, warm_up)
                _pause()
            progress.advance(task)
    medians = {c.name: statistics.median(c.times) / batch for c in field_}
    minima = {c.name: min(c.times) / batch for c in field_}
    mine = field_[0].name
    ours = field_[0]
    return {
        "model": model.stem, "batch": batch, "threads": threads, "rounds": rounds, "noisy_rounds": noisy,
        "ms": medians, "ms_min": minima,
        "cpu_ms_min": {c.name: min(c.cpu_times) / batch for c in field_ if c.cpu_times},
        "ratio": {n: medians[n] / medians[mine] for n in medians if n != mine},
        "ratio_min": {n: minima[n] / minima[mine] for n in minima if n != mine},
        "ratio_round_minima": {
            c.name: statistics.median(c.minima) / statistics.median(ours.minima) for c in field_ if c is not ours
        },
        "compared": ours.inferences if expected is not None and not throughput else 0, "wrong": ours.wrong,
        "load_s": ours.info.get("load_s"), "python_ms": ours.info.get("python_ms"),
        "python_us": ours.info.get("python_us"), "rss_mb": ours.resident_mb,
        "versions": {c.name: c.info["version"] for c in field_ if "version" in c.info},
        "off": {c.name: c.info["off"] for c in field_ if "off" in c.info},
        "used": {c.name: c.info["isa"] for c in field_ if "isa" in c.info},
    }  # fmt: skip


def _pause() -> None:
    import time

    time.sleep(PAUSE_S)


def growth(model: Path, inferences: int, threads: int, expected: Path) -> dict[str, Any]:
    """Resident memory of one process over many inferences, every output compared."""
    from rich.progress import track

    with ExitStack() as stack:
        ours = start(stack, "ours", model, batch=1, threads=threads, throughput=False, expected=expected)
        resident = []
        for _ in track(range(-(-inferences // GROWTH_STEP)), "growth", transient=True, disable=not sys.stderr.isatty()):
            ours.turn(GROWTH_STEP, 0)
            resident.append(ours.resident_mb)
    return {"inferences": ours.inferences, "wrong": ours.wrong, "every": GROWTH_STEP, "resident_mb": resident}


def expected_output(model: Path, batch: int, cache: Path) -> Path:
    """The outputs of the numpy reference for the benchmark's input, kept in the cache (the reference takes seconds)."""
    import hashlib

    import fpga_ops
    from fpga_ops.importer import import_model
    from fpga_ops.ir import classifier_head, reference
    from fpga_ops.ir.fingerprint import fingerprint

    # what the expected bits depend on
    digest = hashlib.sha256(model.read_bytes())
    digest.update(f"{fingerprint(import_model(model).network)} {peers.INPUTS}".encode())
    for module in (reference, classifier_head):
        digest.update(Path(str(module.__file__)).read_bytes())
    path = cache / f"expected-{digest.hexdigest()[:24]}-{batch}.npz"
    if not path.is_file():
        with fpga_ops.load(model, "reference", max_batch=batch) as network:
            described = network.describe()
            ((name, value),) = described["inputs"].items()
            output = next(iter(described["outputs"]))
            results = [network.run({name: array})[output] for array in peers.example_inputs(value["shape"], batch)]
        with tempfile.NamedTemporaryFile(dir=cache, suffix=".npz", delete=False) as stream:
            np.savez(stream, output=np.stack(results))
        Path(stream.name).replace(path)
    return path


def file_meaning(model: Path, batch: int, cache: Path) -> Path:
    """The outputs that the QDQ file stands for: onnxruntime with every optimisation off, kept in the cache."""
    import hashlib

    onnxruntime = import_onnxruntime()
    digest = hashlib.sha256(model.read_bytes() + f"{onnxruntime.__version__} {peers.INPUTS}".encode())
    path = cache / f"meaning-{digest.hexdigest()[:24]}-{batch}.npz"
    if not path.is_file():
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(str(model), sess_options=options, providers=["CPUExecutionProvider"])
        entry = session.get_inputs()[0]
        results = [session.run(None, {entry.name: array})[0] for array in peers.example_inputs(entry.shape, batch)]
        with tempfile.NamedTemporaryFile(dir=cache, suffix=".npz", delete=False) as stream:
            np.savez(stream, output=np.stack(results))
        Path(stream.name).replace(path)
    return path


def layer_table(model: Path, seconds: float = 3.0) -> dict[str, Any]:
    """Where the time goes, from time stamps inside the kernel: layers, against the measured ceiling, and workers."""
    from fpga_ops import vector
    from fpga_ops.devices import find
    from fpga_ops.importer import import_model
    from fpga_ops.vector import isa

    network = import_model(model).network
    device = find("cpu")[1]
    if device is None:
        raise DeviceError("the layer table needs an OpenCL CPU device")
    executable = vector.compile(network, 1, device, profile=True, serial=True)
    trace = _trace(executable, seconds)
    limit = machine.ceiling(device, isa.by_name(executable.isa), executable.plan.workers)
    spent = np.percentile(np.diff(np.array(trace.layers), axis=1), 10, axis=0) / trace.hertz
    rows = [
        {
            "layer": layer.name, "kind": layer.kind, "us": float(t * 1e6), "tasks": layer.tasks,
            "gops": layer.operations / t / 1e9 if t > 0 else 0.0,
            "share": layer.operations / t / 1e9 / limit.gops if t > 0 else 0.0,
            "shape": layer.shape.geometry.key if layer.shape else "",
        }
        for layer, t in zip(executable.plan.layers, spent, strict=True)
    ]  # fmt: skip
    executable.close()
    overlapped = vector.compile(network, 1, device, profile=True)
    free = _trace(overlapped, seconds)
    overlapped.close()
    whole = float(np.median(free.walls))
    return {
        "layers": rows, "ceiling_gops": limit.gops, "instruction": limit.instruction,
        "gop": network.operations / 1e9, "layers_ms": float(spent.sum() * 1e3), "device_ms": whole * 1e3,
        "share": network.operations / whole / 1e9 / limit.gops, "workers": _occupation(free),
    }  # fmt: skip


@dataclass
class _Trace:
    """Time stamps of many inferences.

    Attributes:
        walls: Seconds of `run`.
        layers: Start, then end of each layer, in cycles.
        tasks: `VectorExecutable.task_times`.
        hertz: The counter's frequency, from the run itself.
    """

    walls: list[float]
    layers: list[npt.NDArray[np.int64]]
    tasks: list[npt.NDArray[np.int64]]
    hertz: float


def _trace(executable: VectorExecutable, seconds: float) -> _Trace:
    import time

    rng = np.random.default_rng(0)
    tensors = [(name, executable.network.tensors[name]) for name in executable.network.inputs]
    inputs = {
        name: rng.standard_normal((1, t.channels, t.height, t.width)).astype(np.float32) * np.float32(50 * t.scale)
        for name, t in tensors
    }
    trace = _Trace([], [], [], 0.0)
    begins: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(begins) < 2:
        begins.append(time.perf_counter())
        executable.run(inputs)
        trace.walls.append(time.perf_counter() - begins[-1])
        trace.layers.append(executable.layer_times().astype(np.int64))
        trace.tasks.append(executable.task_times().astype(np.int64))
    trace.hertz = (trace.layers[-1][0] - trace.layers[0][0]) / (begins[-1] - begins[0])
    return trace


def _occupation(trace: _Trace) -> dict[str, float]:
    """Median ms of an inference: the workers' mean time at tasks and waiting for each other, and what is outside."""
    tasks = np.array(trace.tasks) / trace.hertz * 1e3
    free, begun, ended = tasks[..., 0], tasks[..., 1], tasks[..., 2]
    workers = len(np.unique(np.array(trace.tasks)[..., 3]))
    span = ended.max(1) - free.min(1)
    work, wait = (ended - begun).sum(1) / workers, (begun - free).sum(1) / workers
    outside = np.array(trace.walls) * 1e3 - span
    return {
        "work_ms": float(np.median(work)), "wait_ms": float(np.median(wait)), "span_ms": float(np.median(span)),
        "outside_ms": float(np.median(outside)),
    }  # fmt: skip


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All that the arguments ask for."""
    from fpga_ops.devices import find
    from fpga_ops.runtime import opencl
    from fpga_ops.vector import isa
    from triton_fpga_bench.engine import models

    cache = cache_directory()
    device = find("cpu")[1]
    if device is None:
        raise DeviceError("the benchmark needs an OpenCL CPU device")
    threads = args.threads or machine.cores()
    wanted = set(args.what.split(","))
    unknown = wanted - {*EVERYTHING, GROWTH}
    if unknown:
        raise FpgaOpsError(f"--what: no measurement {', '.join(sorted(unknown))}")
    rivals = installed_peers([name for name in args.peers.split(",") if name])
    with tempfile.TemporaryDirectory() as folder:
        model = models.find(args.model, cache)
        floats = models.float_model(model, Path(folder) / f"{model.stem}.float.onnx")
        common = {"rounds": args.rounds, "threads": threads, "patience_s": args.patience}
        result: dict[str, Any] = {"cpu": opencl.cpu_name(), "cores": machine.cores(), "missing_peers": sorted(
            set(args.peers.split(",")) - set(rivals) - {""})}  # fmt: skip
        expected = expected_output(model, args.batch, cache)
        meaning = file_meaning(model, args.batch, cache)
        result |= race(
            ["ours", *rivals], model, floats, batch=args.batch, expected=expected, meaning=meaning, label="latency",
            **common,
        )  # fmt: skip
        result["isa"] = result["used"]["ours"]
        result["bit_exact"] = result["wrong"] == 0 and result["compared"] > 0
        if "layers" in wanted:
            result["layers"] = layer_table(model)
        ints = [name for name in rivals if name == "openvino_int8"]
        if "throughput" in wanted:
            result["throughput"] = race(["ours", *ints], model, floats, throughput=True, label="throughput", **common)
        if "batch" in wanted:
            many = expected_output(model, 8, cache)
            result["batch8"] = race(["ours", *ints], model, floats, batch=8, expected=many, label="batch 8", **common)
        if "models" in wanted:
            result["models"] = {}
            for name in args.others.split(","):
                other = models.find(name, cache)
                bits = expected_output(other, 1, cache)
                result["models"][other.stem] = race(
                    ["ours", *ints], other, floats, expected=bits, label=other.stem, **common
                )
        if "scaling" in wanted and threads > 1:
            each = {"ours@1": 1}
            scaled = race(["ours", "ours@1"], model, floats, each=each, expected=expected, label="scaling", **common)
            result["scaling"] = {"threads": threads, "speed_up": scaled["ratio"]["ours@1"], **scaled}
        if "isas" in wanted:
            names = [f"ours_{entry.name}" for entry in isa.usable(device, cache)]
            raced = race([*names, *rivals], model, floats, expected=expected, label="instruction sets", **common)
            ms = raced["ms"]
            result["isas"] = {
                name.removeprefix("ours_"): {"ms": ms[name], "ratio": {rival: ms[rival] / ms[name] for rival in rivals}}
                for name in names
            }
            result["isas_race"] = raced
        if GROWTH in wanted:
            result[GROWTH] = growth(model, args.inferences, threads, expected)
    return result


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga bench engine`."""
    parser.add_argument("--model", default="resnet50", help="a QDQ file, or resnet18/34/50/101 with random weights")
    parser.add_argument("--others", default="resnet18,resnet101", help="models of '--what models'")
    parser.add_argument(
        "--what", default="latency,layers",
        help=f"comma-separated: {', '.join(EVERYTHING)}; 'all' for these; {GROWTH}",
    )  # fmt: skip
    parser.add_argument("--inferences", type=int, default=100_000, help="of '--what growth'")
    parser.add_argument("--peers", default=",".join(peers.PEERS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1, help="images per inference of the latency race")
    parser.add_argument("--threads", type=int, default=0, help="cores of each contestant (default: all)")
    parser.add_argument("--patience", type=float, default=10.0, help="seconds to wait for a quiet machine each round")
    parser.add_argument("--plot", type=Path, help="save a picture (PNG) of times and layers")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and report."""
    from triton_fpga_bench.engine import report

    if args.what == "all":
        args.what = ",".join(EVERYTHING)
    if min(args.rounds, args.batch, args.inferences) < 1:
        raise FpgaOpsError("--rounds, --batch and --inferences must be at least 1")
    result = measure(args)
    if args.plot is not None:
        report.plot(result, args.plot)
    if args.json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        report.show(result)
    return 0 if result["bit_exact"] else 1
