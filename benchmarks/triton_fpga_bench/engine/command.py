"""The engine against onnxruntime and OpenVINO on the same QDQ file, interleaved in one run, outputs compared.

Every contestant is a process of its own that runs the same model on the same float input, end to end. They take turns
for a few inferences each, round after round, on a quiet machine, so that drift of the clock hits all alike: trust the
ratios of one run, not the times of two.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fpga_ops.errors import DeviceError, FpgaOpsError
from fpga_ops.runtime.cache_directory import cache_directory
from triton_fpga_bench import machine
from triton_fpga_bench.engine import peers
from triton_fpga_bench.engine.layers import layer_table
from triton_fpga_bench.engine.race import expected_output, file_meaning, growth, installed_peers, race

EVERYTHING = ("latency", "layers", "throughput", "batch", "models", "scaling", "isas")
"""What '--what all' measures."""
GROWTH = "growth"
HELD = {"avx_vnni": "AVX2_VNNI", "avx512bw": "AVX512_CORE", "avx2": "AVX2"}
"""What OpenVINO is held to beside a set that is not the machine's best, in its own words (`race.HELD_VARIABLE`)."""


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
    if args.inputs is not None:
        peers.read_rows(args.inputs)  # says what is wrong with the file before anything takes time
    rivals = installed_peers([name for name in args.peers.split(",") if name])
    with tempfile.TemporaryDirectory() as folder:
        model = models.find(args.model, cache)
        floats = models.float_model(model, Path(folder) / f"{model.stem}.float.onnx")
        common = {"rounds": args.rounds, "threads": threads, "patience_s": args.patience, "inputs": args.inputs}
        result: dict[str, Any] = {"cpu": opencl.cpu_name(), "cores": machine.cores(), "missing_peers": sorted(
            set(args.peers.split(",")) - set(rivals) - {""})}  # fmt: skip
        expected = expected_output(model, args.batch, cache, args.inputs)
        meaning = file_meaning(model, args.batch, cache, args.inputs)
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
            many = expected_output(model, 8, cache, args.inputs)
            result["batch8"] = race(["ours", *ints], model, floats, batch=8, expected=many, label="batch 8", **common)
        if "models" in wanted:
            result["models"] = {}
            for name in args.others.split(","):
                other = models.find(name, cache)
                bits = expected_output(other, 1, cache)
                result["models"][other.stem] = race(
                    ["ours", *ints], other, floats, expected=bits, label=other.stem, **{**common, "inputs": None}
                )
        if "scaling" in wanted and threads > 1:
            each = {"ours@1": 1}
            scaled = race(["ours", "ours@1"], model, floats, each=each, expected=expected, label="scaling", **common)
            result["scaling"] = {"threads": threads, "speed_up": scaled["ratio"]["ours@1"], **scaled}
        if "isas" in wanted:
            sets = [entry.name for entry in isa.usable(device, cache)]
            fair = {name: [*rivals, *_held(name, rivals)] if name != sets[0] else rivals for name in sets}
            names = [
                *(f"ours_{name}" for name in sets),
                *dict.fromkeys(rival for each in fair.values() for rival in each),
            ]
            raced = race(names, model, floats, expected=expected, label="instruction sets", **common)
            ms = raced["ms"]
            result["isas"] = {
                name: {"ms": mine, "ratio": {rival: ms[rival] / mine for rival in fair[name]}}
                for name, mine in ((name, ms[f"ours_{name}"]) for name in sets)
            }
            result["isas_race"] = raced
        if GROWTH in wanted:
            result[GROWTH] = growth(model, args.inferences, threads, expected)
    return result


def _held(name: str, rivals: list[str]) -> list[str]:
    """Those rivals that can be held to one of our sets, as contestants."""
    return [f"{rival}@{HELD[name]}" for rival in rivals if name in HELD and rival.startswith("openvino")]


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga bench engine`."""
    parser.add_argument("--model", default="resnet50", help="a QDQ file, or resnet18/34/50/101 with random weights")
    parser.add_argument(
        "--inputs",
        type=Path,
        help="rows for the model (.npy, or its golden.npz), not random numbers",
    )
    parser.add_argument("--others", default="resnet18,resnet101", help="models of '--what models'")
    parser.add_argument(
        "--what", default="latency,layers",
        help=f"comma-separated: {', '.join(EVERYTHING)}; 'all' for these; {GROWTH}",
    )  # fmt: skip
    parser.add_argument("--inferences", type=int, default=100_000, help="of '--what growth'")
    parser.add_argument(
        "--peers", default=",".join(peers.PEERS), help="whom to race against, separated by commas, if installed"
    )
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contestant")
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
