"""The contestants of `bench engine`, each a program that runs one model in its own process.

usage: python -m triton_fpga_bench.engine.peers PEER MODEL --batch N --threads N [--expected FILE.npz] [--inputs FILE]

It prints one JSON line when ready. Then each line read from stdin is a count: it runs that many inferences on the same
float input and prints one JSON line with their times in ms, and how many of these very inferences differed from the
expected output.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import FpgaOpsError
from fpga_ops.runtime.onnxruntime_import import import_onnxruntime

Array = npt.NDArray[Any]
Run = Callable[[int], Array]
"""Runs one inference on the input of that number."""

OURS = "ours"
"""With `_` and the name of an instruction set, ours with that one."""
PEERS = ("openvino_int8", "openvino_bf16", "openvino_fp32", "ort_int8", "ort_fp32")
IN_FLIGHT = 24
"""Requests of one throughput measurement."""


INPUTS = 2
"""Different inputs that take turns: bytes left over from the last inference must not pass for this one's."""


def example_inputs(
    shape: Sequence[int | str | None], batch: int, rows: Path | None = None
) -> list[npt.NDArray[np.float32]]:
    """The inputs that every contestant gets: random ones, or a file's rows in turn.

    Args:
        shape: Of the model's input, the batch first.
        batch: Rows of an input.
        rows: An array `float32[n, ...]` (.npy), or an archive with one named "input", as models' `golden.npz` is.

    Raises:
        FpgaOpsError: The file holds no such array, or its rows do not fit the model's input.
    """
    fixed = tuple(side if isinstance(side, int) and side > 0 else 1 for side in shape[1:])
    if rows is None:
        rng = np.random.default_rng(1)
        return [rng.standard_normal((batch, *fixed)).astype(np.float32) for _ in range(INPUTS)]
    array = read_rows(rows)
    if array.dtype != np.float32 or array.shape[1:] != fixed or not len(array):
        raise FpgaOpsError(f"{rows}: expected float32[n, {', '.join(map(str, fixed))}], got {array.dtype}{array.shape}")
    return [np.take(array, range(n * batch, (n + 1) * batch), axis=0, mode="wrap") for n in range(INPUTS)]


def read_rows(path: Path) -> Array:
    """The array of a `.npy` file, or that named "input" of an archive.

    Raises:
        FpgaOpsError: There is none.
    """
    try:
        content = np.load(path, allow_pickle=False)
        return content if isinstance(content, np.ndarray) else np.asarray(content["input"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise FpgaOpsError(f"{path}: expected an array (.npy), or one named 'input' (.npz): {error}") from error


def _ours(path: Path, batch: int, rows: Path | None) -> tuple[Run, Callable[[int], float], dict[str, Any]]:
    import fpga_ops

    start = time.perf_counter()
    network = fpga_ops.load(path, "cpu", max_batch=batch)
    loaded = time.perf_counter() - start
    described = network.describe()
    ((name, value),) = described["inputs"].items()
    inputs = [{name: array} for array in example_inputs(value["shape"], batch, rows)]
    output = next(iter(described["outputs"]))

    def back_to_back(count: int) -> float:
        start = time.perf_counter()
        futures: list[Future[dict[str, Array]]] = [network.submit(inputs[n % INPUTS]) for n in range(count)]
        for future in futures:
            future.result()
        return (time.perf_counter() - start) * 1e3 / count

    info = {
        "load_s": loaded,
        "kernel": described["kernel"],
        "isa": described["isa"],
        **_python_share(network, inputs[0]),
    }
    return (lambda number: network.run(inputs[number])[output]), back_to_back, info


def _python_share(network: Any, inputs: dict[str, Array], count: int = 60) -> dict[str, Any]:
    """What the interpreter takes of one inference, outside the device and onnxruntime; empty if each layer is a launch.

    `python_ms`: median of the sum. `python_us`: medians of its parts, before the driver's launch, in it, between
    launches and after, beside the wait for the device.
    """
    from fpga_ops.runtime import onnx_parts as typed

    sessions: Any = typed
    launch, now = network._executable._direct, time.perf_counter
    if launch is None:
        return {}
    elsewhere = 0.0  # in onnxruntime
    calls: list[tuple[str, float, float]] = []

    def clock() -> float:
        return now() - elsewhere

    def timed(part: str, function: Callable[..., int]) -> Callable[..., int]:
        def call(*args: Any) -> int:
            start = clock()
            status = function(*args)
            calls.append((part, start, clock()))
            return status

        return call

    def session_timed(*args: Any) -> Any:
        nonlocal elsewhere
        start = now()
        result = run_session(*args)
        elsewhere += now() - start
        return result

    enqueue, finish, run_session = launch._enqueue, launch._finish, sessions.run_session
    launch._enqueue, launch._finish = timed("enqueue", enqueue), timed("wait", finish)
    sessions.run_session = session_timed
    rows = []
    try:
        for _ in range(count):
            calls.clear()
            begin = clock()
            network.run(inputs)
            end = clock()
            spent = {part: sum(b - a for name, a, b in calls if name == part) for part in ("enqueue", "wait")}
            before, after = calls[0][1] - begin, end - calls[-1][2]
            between = end - begin - before - after - sum(spent.values())
            rows.append((before, spent["enqueue"], between, spent["wait"], after))
    finally:
        launch._enqueue, launch._finish, sessions.run_session = enqueue, finish, run_session
    us = np.array(rows) * 1e6
    parts = dict(zip(("before", "enqueue", "between", "wait", "after"), map(float, np.median(us, axis=0)), strict=True))
    return {"python_ms": float(np.median(us.sum(axis=1) - us[:, 3])) / 1e3, "python_us": parts}


def _onnxruntime(
    path: Path, batch: int, threads: int, rows: Path | None
) -> tuple[Run, Callable[[int], float], dict[str, Any]]:
    onnxruntime = import_onnxruntime()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    inputs = [{entry.name: array} for array in example_inputs(entry.shape, batch, rows)]

    def run(number: int) -> Array:
        result: Array = session.run(None, inputs[number])[0]
        return result

    def back_to_back(count: int) -> float:
        start = time.perf_counter()
        for number in range(count):
            session.run(None, inputs[number % INPUTS])
        return (time.perf_counter() - start) * 1e3 / count

    return run, back_to_back, {"version": onnxruntime.__version__}


def _openvino(
    path: Path, batch: int, threads: int, precision: str, throughput: bool, rows: Path | None
) -> tuple[Run, Callable[[int], float], dict[str, Any]]:
    # Without this package openvino takes its stub, which reports nothing; else the import makes ~/intel and reports it.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    core = openvino.Core()
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    settings["PERFORMANCE_HINT"] = "THROUGHPUT" if throughput else "LATENCY"
    if precision in ("bf16", "f32"):
        settings["INFERENCE_PRECISION_HINT"] = precision
    model = core.read_model(path)
    value = model.inputs[0]
    sides = [axis.get_length() if axis.is_static else -1 for axis in value.partial_shape]
    model.reshape({value: [batch, *[side if side > 0 else 1 for side in sides[1:]]]})
    compiled = core.compile_model(model, "CPU", settings)
    images = example_inputs(sides, batch, rows)
    request = compiled.create_infer_request()

    def run(number: int) -> Array:
        request.infer({0: images[number]}, share_inputs=True)
        result: Array = request.get_output_tensor(0).data
        return result

    waiting = openvino.AsyncInferQueue(compiled)

    def back_to_back(count: int) -> float:
        start = time.perf_counter()
        for number in range(count):
            waiting.start_async({0: images[number % INPUTS]}, share_inputs=True)
        waiting.wait_all()
        return (time.perf_counter() - start) * 1e3 / count

    return run, back_to_back, {"version": openvino.__version__.split("-")[0]}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve timings until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("peer")
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--throughput", action="store_true")
    parser.add_argument("--expected", type=Path)
    parser.add_argument("--meaning", type=Path)
    parser.add_argument("--inputs", type=Path)
    args = parser.parse_args(argv)
    library, _, precision = args.peer.partition("_")
    if library == OURS:
        run, back_to_back, info = _ours(args.model, args.batch, args.inputs)
    elif library == "ort":
        run, back_to_back, info = _onnxruntime(args.model, args.batch, args.threads, args.inputs)
    else:
        hint = {"fp32": "f32", "bf16": "bf16", "int8": ""}[precision]
        run, back_to_back, info = _openvino(args.model, args.batch, args.threads, hint, args.throughput, args.inputs)
    expected = np.load(args.expected, allow_pickle=False)["output"] if args.expected else None
    for number in range(4):
        run(number % INPUTS)
    if args.meaning is not None:
        meaning = np.load(args.meaning, allow_pickle=False)["output"]
        info["off"] = max(float(np.abs(run(number) - meaning[number]).max()) for number in range(INPUTS))
    print(json.dumps({"ready": args.peer, **info}), flush=True)
    for line in sys.stdin:
        times: list[float] = []
        cpu_times: list[float] = []
        outputs: list[Array] = []
        for number in range(int(line)):
            if args.throughput:
                times.append(back_to_back(IN_FLIGHT))
                continue
            used, start = time.process_time(), time.perf_counter()
            output = run(number % INPUTS)
            times.append((time.perf_counter() - start) * 1e3)
            cpu_times.append((time.process_time() - used) * 1e3)
            outputs.append(output.copy())
        wrong = 0
        if expected is not None:
            wrong = sum(not np.array_equal(output, expected[n % INPUTS]) for n, output in enumerate(outputs))
        print(json.dumps({"ms": times, "cpu_ms": cpu_times, "wrong": wrong, "rss_mb": _resident()}), flush=True)
    return 0


def _resident() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
