"""The long runs behind one command each.

python -m tests.e2e.long fuzz --minutes 60
python -m tests.e2e.long soak --minutes 240 --plot soak.png
python -m tests.e2e.long models --onnx model.onnx --count 1000
python -m tests.e2e.long loads --count 200        mutated models and configurations into a running server
python -m tests.e2e.long root --count 2000        damaged ROOT files through `triton-fpga tag`
python -m tests.e2e.long recover --count 6        a killed stub of the shipped models, until it answers again
python -m tests.e2e.long goodput                  answers per second at 3 times what can be served
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
from rich.progress import Progress
from tritonclient.utils import InferenceServerException

import fpga_ops
from tests.e2e import fuzzing
from tests.e2e.conftest import Service, images, serving, write_model
from tests.e2e.figures import goodput, recovery
from tests.e2e.soak import Record, Sample, growth, plot, sample, server_growth, soak
from tests.fpga_ops.onnx_models import quantise, resnet
from triton_server.repository.admission import refusal
from triton_server.repository.model_version import describe_onnx

RECOVERY_S = 5.0
GOODPUT = 0.9
GROWTH = 64 << 20
"""What a fuzzed service may hold more at the end than after a tenth of the time."""


def fuzz(minutes: float, seed: int) -> int:
    """HTTP and gRPC in turn; fails on a hang, an error of the plugin itself, or a restart."""
    seen: Counter[str] = Counter()
    settled: Sample | None = None
    with _service() as service, grpc.insecure_channel(service.urls["grpc"]) as channel, Progress() as progress:
        bar = progress.add_task("fuzzing", total=minutes * 60)
        began = time.monotonic()
        cases, bodies = fuzzing.http_cases(seed), fuzzing.grpc_bodies(seed)
        while (elapsed := time.monotonic() - began) < minutes * 60:
            case = next(cases)
            status, body = fuzzing.send_http(service, case)
            seen[f"http {status}"] += 1
            message = next(bodies)
            code, reason = fuzzing.send_grpc(channel, message)
            seen[f"grpc {code.name}"] += 1
            if any(word in body + reason for word in fuzzing.OURS) or service.process.poll() is not None:
                print(f"failed on {case} and {message!r}", file=sys.stderr)
                return 1
            if elapsed > minutes * 60 / 10 and settled is None:
                settled = sample(service, began)
            progress.update(bar, completed=elapsed)
        service.infer("grpc", "tiny", images())
        restarts, last = service.restarts(), sample(service, began)
    grown = 0 if settled is None else last.memory - settled.memory
    print(json.dumps({"restarts": restarts, "grown_bytes": grown, **seen}, indent=2))
    return int(restarts > 0 or grown > GROWTH)


def mutated_loads(count: int, seed: int) -> int:
    """Load mutated models and configurations beside a sound model; fails when that notices, or on a restart."""
    seen: Counter[str] = Counter()
    with _service("--no-watch") as service, Progress() as progress:
        bar = progress.add_task("loading", total=count)
        folder = service.repository / "other"
        config, model = folder / "config.pbtxt", folder / "1" / "model.onnx"
        shutil.rmtree(folder / "1")  # with its hashes and known answers, which would find any change of the model
        model.parent.mkdir()
        sound = config.read_bytes(), (service.repository / "tiny" / "1" / "model.onnx").read_bytes()
        expected = service.infer("grpc", "tiny", images())
        configs, models = fuzzing.config_texts(seed, sound[0]), fuzzing.onnx_bytes(sound[1], seed)
        client = service.client("http")
        for number in range(count):
            config.write_bytes(next(configs) if number % 2 else sound[0])
            model.write_bytes(sound[1] if number % 2 else next(models))
            kind = "configuration" if number % 2 else "model"
            if refusal(folder) is not None:  # as the supervisor judges it first
                seen[f"{kind} refused"] += 1
            else:
                try:
                    client.load_model("other", headers=service.admin)
                    service.infer("grpc", "other", images())
                except InferenceServerException as error:
                    seen[f"{kind}: {error.status()}"] += 1
                    if not error.message() or any(word in error.message() for word in fuzzing.OURS):
                        print(f"case {number} of seed {seed}: {error}", file=sys.stderr)
                        return 1
                else:
                    seen[f"{kind}: answer"] += 1
            np.testing.assert_array_equal(service.infer("http", "tiny", images()), expected)
            progress.update(bar, advance=1)
        restarts = service.restarts()
    print(json.dumps({"restarts": restarts, **seen}, indent=2))
    return int(restarts > 0)


def run_soak(minutes: float, path: Path | None, crash_every_s: float, pause_s: float) -> int:
    """Mixed load with crashes; prints the growth and draws it; the samples (.csv) and the log are beside the plot."""
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(_service())
        bar = stack.enter_context(Progress())
        task = bar.add_task("soaking", total=minutes * 60)
        record = None if path is None else stack.enter_context(contextlib.closing(Record(path.with_suffix(".csv"))))

        def show(entry: Sample) -> None:
            bar.update(task, completed=entry.seconds)
            if record is not None:
                record.add(entry)

        samples = soak(service, minutes * 60, crash_every_s=crash_every_s, pause_s=pause_s, progress=show)
        restarts = service.status()["restarts"]
        if path is not None:
            shutil.copyfile(service.log, path.with_suffix(".log"))
            plot(samples, path)
    figures = {
        "rounds": len(samples), "restarts": restarts, **growth(samples), "server_bytes_a_round": server_growth(samples)
    }  # fmt: skip
    print(json.dumps(figures, indent=2))
    return 0


def mutated_models(source: Path, count: int, seed: int) -> int:
    """Load and run mutated models on the reference: a typed error each, or an answer."""
    warnings.simplefilter("ignore")
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for number, content in enumerate(itertools.islice(fuzzing.onnx_bytes(source.read_bytes(), seed), count)):
            path.write_bytes(content)
            try:
                describe_onnx(path)
                with fpga_ops.load(path, "reference") as network:
                    network.run({"images": images()})
            except fpga_ops.FpgaOpsError as error:
                seen[type(error).__name__] += 1
            except BaseException:
                Path("failed.onnx").write_bytes(content)
                print(f"case {number} of seed {seed} failed; kept as failed.onnx", file=sys.stderr)
                raise
            else:
                seen["answer"] += 1
    print(json.dumps(seen))
    return 0


@contextlib.contextmanager
def _service(*options: str) -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as folder:
        source = quantise(resnet((1,), 16, (3, 32, 32), classes=2, softmax=True), Path(folder) / "tiny.onnx")
        more = 'max_batch_size: 8\nparameters { key: "contract" value { string_value: "images" } }'
        for name in ("tiny", "other"):
            write_model(Path(folder) / "models", name, source, more=more)
        with serving(Path(folder) / "models", *options) as service:
            yield service


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recover = commands.add_parser("recover")
    recover.add_argument("--count", type=int, default=6)
    root = commands.add_parser("root")
    root.add_argument("--count", type=int, default=2000)
    root.add_argument("--seed", type=int, default=0)
    flood = commands.add_parser("goodput")
    flood.add_argument("--rounds", type=int, default=6)
    flood.add_argument("--instances", type=int, default=1, help="of the shipped tagger")
    flood.add_argument("--device-ms", type=float, help="pretend a device that takes so long and no processor")
    for name in ("fuzz", "soak", "models", "loads"):
        command = commands.add_parser(name)
        command.add_argument("--seed", type=int, default=0)
        if name == "models":
            command.add_argument("--onnx", type=Path, required=True)
            command.add_argument("--count", type=int, default=1000)
        elif name == "loads":
            command.add_argument("--count", type=int, default=200)
        else:
            command.add_argument("--minutes", type=float, default=60.0)
        if name == "soak":
            command.add_argument("--plot", type=Path)
            command.add_argument("--crash-every", type=float, default=60.0, metavar="S")
            command.add_argument("--pause", type=float, default=0.0, metavar="S", help="between two rounds")
    args = parser.parse_args()
    if args.command == "recover":
        found = recovery(args.count)
        print(json.dumps(found, indent=2))
        return int(found["worst_s"] > RECOVERY_S)
    if args.command == "root":
        from tests.clients.damaged_files import tag_damaged

        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(tag_damaged(Path(folder), args.count, args.seed)))
        return 0
    if args.command == "goodput":
        figures = goodput(args.rounds, args.device_ms, args.instances)
        print(json.dumps(figures, indent=2))
        return int(figures["goodput_over_most"] < GOODPUT)
    if args.command == "fuzz":
        return fuzz(args.minutes, args.seed)
    if args.command == "loads":
        return mutated_loads(args.count, args.seed)
    if args.command == "soak":
        return run_soak(args.minutes, args.plot, args.crash_every, args.pause)
    return mutated_models(args.onnx, args.count, args.seed)


if __name__ == "__main__":
    sys.exit(main())
