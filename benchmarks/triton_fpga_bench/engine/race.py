"""Contestants that take turns with one inference after another: their times, and whether their outputs are right."""

from __future__ import annotations

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
from typing import Any

import numpy as np

from fpga_ops.errors import DeviceError
from fpga_ops.runtime.onnxruntime_import import import_onnxruntime
from fpga_ops.runtime.opencl import TARGET_VARIABLE
from fpga_ops.vector import isa
from triton_fpga_bench import machine
from triton_fpga_bench.engine import peers

WARM_UP = 2
"""Inferences at the start of a turn that do not count: caches are cold after the others' turns."""
PER_TURN = 8
PAUSE_S = 0.02
"""Between turns, for a contestant's threads to stop spinning."""
HELD_VARIABLE = "ONEDNN_MAX_CPU_ISA"
"""Holds OpenVINO to an instruction set. onnxruntime's own kernels have no such switch."""
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
    inputs: Path | None = None,
    held: str = "",
) -> Contestant:
    """Start a contestant and wait until it is ready; `held` is its value of `HELD_VARIABLE`.

    Raises:
        DeviceError: It could not start; the message holds its last words.
    """
    command = [sys.executable, "-W", "ignore", "-m", "triton_fpga_bench.engine.peers", name, str(model)]
    command += ["--batch", str(batch), "--threads", str(threads)]
    command += ["--throughput"] if throughput else []
    command += ["--expected", str(expected)] if expected is not None else []
    command += ["--meaning", str(meaning)] if meaning is not None else []
    command += ["--inputs", str(inputs)] if inputs is not None else []
    search = os.pathsep.join([str(Path(str(files("triton_fpga_bench"))).parent), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": search, "FPGA_OPS_WORKERS": str(threads)}
    if name.startswith("ours_"):
        forced = isa.by_name(name.removeprefix("ours_"))
        environment[isa.ISA_VARIABLE] = forced.name
        if forced.target:
            environment.setdefault(TARGET_VARIABLE, forced.target)
    if held:
        environment[HELD_VARIABLE] = held
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
    expected: Path | None = None, meaning: Path | None = None, inputs: Path | None = None, patience_s: float = 10.0,
    each: dict[str, int] | None = None, label: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Let contestants take turns and sum up.

    Args:
        names: Contestants; those in fp32 and bf16 get `floats`, the others `model`. What follows an `@` tells entries
            of one contestant apart; if it is no number, the contestant is held to that instruction set.
        model: The QDQ file.
        floats: The same as a float model.
        rounds: Turns of each.
        batch: Images per inference.
        threads: Cores of each.
        throughput: Time many requests back to back instead of single ones.
        expected: Outputs that ours must give, bit for bit.
        meaning: What the file means (`file_meaning`); how far each contestant is from it is among the results.
        inputs: Rows that all of them get (`peers.example_inputs`).
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
            name, _, held = entry.partition("@")
            path = model if name.startswith("ours") or name.endswith("int8") else floats
            contestant = start(
                stack, name, path, batch=batch, threads=(each or {}).get(entry, threads), throughput=throughput,
                expected=expected if name.startswith("ours") and not throughput else None, meaning=meaning,
                inputs=inputs, held="" if held.isdecimal() else held,
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


def expected_output(model: Path, batch: int, cache: Path, inputs: Path | None = None) -> Path:
    """The outputs of the numpy reference for the benchmark's input, kept in the cache (the reference takes seconds)."""
    import hashlib

    import fpga_ops
    from fpga_ops.importer import import_model
    from fpga_ops.ir import classifier_head, reference
    from fpga_ops.ir.fingerprint import fingerprint

    # what the expected bits depend on
    digest = hashlib.sha256(model.read_bytes())
    digest.update(f"{fingerprint(import_model(model).network)} {peers.INPUTS}".encode())
    digest.update(inputs.read_bytes() if inputs is not None else b"")
    for module in (reference, classifier_head):
        digest.update(Path(str(module.__file__)).read_bytes())
    path = cache / f"expected-{digest.hexdigest()[:24]}-{batch}.npz"
    if not path.is_file():
        with fpga_ops.load(model, "reference", max_batch=batch) as network:
            described = network.describe()
            ((name, value),) = described["inputs"].items()
            output = next(iter(described["outputs"]))
            examples = peers.example_inputs(value["shape"], batch, inputs)
            results = [network.run({name: array})[output] for array in examples]
        with tempfile.NamedTemporaryFile(dir=cache, suffix=".npz", delete=False) as stream:
            np.savez(stream, output=np.stack(results))
        Path(stream.name).replace(path)
    return path


def file_meaning(model: Path, batch: int, cache: Path, inputs: Path | None = None) -> Path:
    """The outputs that the QDQ file stands for: onnxruntime with every optimisation off, kept in the cache."""
    import hashlib

    onnxruntime = import_onnxruntime()
    digest = hashlib.sha256(model.read_bytes() + f"{onnxruntime.__version__} {peers.INPUTS}".encode())
    digest.update(inputs.read_bytes() if inputs is not None else b"")
    path = cache / f"meaning-{digest.hexdigest()[:24]}-{batch}.npz"
    if not path.is_file():
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(str(model), sess_options=options, providers=["CPUExecutionProvider"])
        entry = session.get_inputs()[0]
        examples = peers.example_inputs(entry.shape, batch, inputs)
        results = [session.run(None, {entry.name: array})[0] for array in examples]
        with tempfile.NamedTemporaryFile(dir=cache, suffix=".npz", delete=False) as stream:
            np.savez(stream, output=np.stack(results))
        Path(stream.name).replace(path)
    return path
