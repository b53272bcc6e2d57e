"""One run of the benchmark: start the server, make the measurements, write the report."""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from sonic_client.core.server_metrics import read_provenance
from sonic_client.core.shared_memory import SMALLEST
from sonic_client.errors import ClientError, ConfigurationError
from triton_fpga_bench.service import far_link, inputs, measurements, pretended_device, report
from triton_fpga_bench.service.client_load import Load, measure
from triton_fpga_bench.service.light_load import Generator, Job
from triton_fpga_bench.service.measurements import CONSTITUENTS, IMAGES, INPUTS, Model, Plan

Numbers = dict[str, Any]


def run_all(args: argparse.Namespace, console: Console) -> Numbers:
    """Make the measurements that were asked for; write and return the report."""
    from fpga_ops.errors import FpgaOpsError
    from triton_server import TritonServer

    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, console.status("Starting ...") as status:
        plan = _plan(args, Path(scratch), lambda text: status.update(f"Measuring: {text}"))
        models = measurements.find_models(plan)
        if not models:
            raise ConfigurationError(f"{plan.repository} serves neither {CONSTITUENTS} nor {IMAGES}")
        numbers: Numbers = {"latency": {}, "scaling": {}, "remote": {}, "breakdown": {}, "overlap": {}, "failed": {}}
        numbers |= _about(plan)
        throughput: dict[str, float] = {}

        def attempt(what: str, make: Callable[[], None]) -> None:
            """One measurement; that it failed is a result too, and the others go on."""
            plan.say(what)
            try:
                make()
            except (ClientError, FpgaOpsError) as error:
                numbers["failed"][what] = str(error)

        with TritonServer(plan.repository, auto_complete=None) as server:
            provenance = read_provenance(server.metrics_url, next(iter(models)))
            numbers |= {"device": provenance.get("device", "unknown"), "precision": provenance.get("precision", "")}
            for name, model in models.items():

                def latency(name: str = name, model: Model = model) -> None:
                    found = measurements.added_latency(plan, server.grpc_url, server.http_url, model, args.device)
                    numbers["latency"][name] = found
                    throughput[name] = _eight(plan, server.grpc_url, model, found, args.device)

                def scaling(name: str = name, model: Model = model) -> None:
                    numbers["scaling"][name] = measurements.scaling(plan, server.grpc_url, model)

                def breakdown(name: str = name, model: Model = model) -> None:
                    numbers["breakdown"][name] = measurements.breakdown(plan, server, model)

                if {"latency", "table"} & set(args.only):
                    attempt(f"{name}: latency added to the bare call", latency)
                if "scaling" in args.only:
                    attempt(f"{name}: clients at once", scaling)
                if "breakdown" in args.only:
                    attempt(f"{name}: where the time goes", breakdown)
            if "table" in args.only and IMAGES in throughput:
                found = numbers["latency"][IMAGES]
                rows = measurements.table(plan, models[IMAGES], found, throughput[IMAGES], numbers["device"])
                numbers["table"] = [*rows, *measurements.PUBLISHED]
        for name, model in models.items() if "overlap" in args.only else ():

            def overlap(name: str = name, model: Model = model) -> None:
                body = inputs.encode(name, INPUTS[name], model.rows[:1])
                numbers["overlap"][name] = pretended_device.rates(
                    plan.folder, plan.repository / name, body, device_ms=args.device_ms, host_ms=args.host_ms,
                    seconds=plan.seconds / 2, turns=plan.turns,
                )  # fmt: skip

            attempt(f"{name}: a pretended device", overlap)
        if "remote" in args.only:
            numbers["remote_skipped"] = far_link.why_not()
            for name, model in {} if numbers["remote_skipped"] else models.items():
                # An image is mostly zeros: compressed, it is hardly more than its constituents.
                for title, compression in ((name, None), (f"{name}, gzip", "gzip"))[: 2 if name == IMAGES else 1]:

                    def remote(title: str = title, model: Model = model, how: str | None = compression) -> None:
                        numbers["remote"][title] = measurements.remote(plan, model, _starter(plan), how)

                    attempt(f"{title}: far away", remote)
    numbers["summary"] = _summary(numbers)
    report.write(numbers, args.output)
    return numbers


def _plan(args: argparse.Namespace, scratch: Path, say: Any) -> Plan:
    quick = args.quick
    return Plan(
        repository=args.model_repository,
        sample=args.jets,
        folder=scratch,
        seconds=2.0 if quick else args.seconds,
        rounds=20 if quick else args.rounds,
        connections=(1, 8, 32) if quick else tuple(args.connections),
        loads=(0.5, 0.8) if quick else tuple(args.loads),
        rtts_ms=tuple(args.rtt),
        in_flight=args.in_flight,
        turns=1 if quick else 3,
        say=say,
    )


def _starter(plan: Plan) -> Callable[..., Any]:
    from triton_server import TritonServer

    return lambda **where: TritonServer(plan.repository, auto_complete=None, **where).start()


def _eight(plan: Plan, grpc: str, model: Model, latency: Numbers, device: str) -> float:
    """Throughput of eight clients, each with one request under way, beside the bare call in a loop before and after.

    First clients of other machines: eight connections of the light generator, which takes next to nothing of the cores
    that serve. Then eight of this client on the same cores, and once more through shared memory, where a request is
    large enough for it. In turns, of which the median counts.
    """
    plan.say(f"{model.name}: eight connections beside the bare call")
    inline = Load(f"triton+grpc://{grpc}/{model.name}", str(model.file), plan.seconds, connections=8)
    loads = {"_same_cores": inline}
    if model.rows[0].nbytes >= SMALLEST:
        loads["_same_cores_shared_memory"] = dataclasses.replace(inline, shared_memory=True)
    runs: dict[str, list[Numbers]] = {}

    def bare() -> float:
        return measurements.throughput_of_bare_call(model, device, plan.seconds / 2)

    def turn(name: str, per_s: float, cores: float, before: float) -> float:
        after = bare()
        ratio = per_s / ((before + after) / 2)
        runs.setdefault(name, []).append({"ratio": ratio, "per_s": per_s, "cores": cores, "bare": (before + after) / 2})
        return after

    now = bare()
    with Generator(grpc, inputs.encode(model.name, INPUTS[model.name], model.rows[:1]), 8) as generator:
        for _ in range(plan.turns):
            light = generator.run(Job(plan.seconds, 1.0, in_flight=8))
            if light.ended.keys() - {"ok"}:
                raise ClientError(f"eight requests at once: expected answers alone, got {light.ended}")
            now = turn("", light.answers_per_s, light.cpu_share, now)
            for name, load in loads.items():
                found = measure(load, plan.folder)
                if not load.shared_memory:
                    latency["bytes_per_inference"] = found.bytes_per_inference
                now = turn(name, found.throughput_per_s, found.cores, now)
    for name, every in runs.items():
        middle = sorted(every, key=lambda run: float(run["ratio"]))[len(every) // 2]
        latency[f"throughput_ratio_8_clients{name}"] = middle["ratio"]
        latency[f"throughput_ratios_8_clients{name}"] = [run["ratio"] for run in every]
        latency[f"eight_connections_per_s{name}"] = middle["per_s"]
        latency[f"load_generator_cores{name}"] = middle["cores"]
    latency["bare_per_s"] = sorted(run["bare"] for run in runs[""])[len(runs[""]) // 2]
    return float(latency["eight_connections_per_s"])


def _about(plan: Plan) -> Numbers:
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "machine": f"{processor}, {len(os.sched_getaffinity(0))} cores",
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["triton-fpga", "bench", "service", *_arguments()]),
        "seconds": plan.seconds,
    }


def _arguments() -> list[str]:
    """The command line after `bench service`, as far as it was one."""
    arguments = sys.argv[1:]
    return arguments[2:] if arguments[:2] == ["bench", "service"] else []


def _pretended(numbers: Numbers, name: str) -> float | None:
    """Answers per second to eight clients, overlapped."""
    found = numbers["overlap"].get(name)
    return None if found is None else float(found["per_s"]["overlapped"][8])


def _summary(numbers: Numbers) -> Numbers:
    """The figures that others rely on; None where they were not measured."""
    latency, remote = numbers["latency"], numbers["remote"]
    main = latency.get(CONSTITUENTS) or latency.get(IMAGES) or {}
    far = remote.get(CONSTITUENTS) or remote.get(IMAGES) or {}
    return {
        "added_ms_image": latency.get(IMAGES, {}).get("added_grpc"),
        "added_ms_image_shared_memory": latency.get(IMAGES, {}).get("added_grpc_shared_memory"),
        "added_ms_image_http_shared_memory": latency.get(IMAGES, {}).get("added_http_shared_memory"),
        "added_ms_image_plain_tritonclient": latency.get(IMAGES, {}).get("added_plain"),
        "added_ms_image_least": latency.get(IMAGES, {}).get("added_least"),
        "added_ms_constituents": latency.get(CONSTITUENTS, {}).get("added_grpc"),
        "added_ms_constituents_plain_tritonclient": latency.get(CONSTITUENTS, {}).get("added_plain"),
        "added_ms_constituents_least": latency.get(CONSTITUENTS, {}).get("added_least"),
        "throughput_ratio_8_clients": main.get("throughput_ratio_8_clients"),
        "throughput_ratio_8_clients_image": latency.get(IMAGES, {}).get("throughput_ratio_8_clients"),
        "throughput_ratio_8_clients_same_cores": main.get("throughput_ratio_8_clients_same_cores"),
        "throughput_ratio_8_clients_image_same_cores": latency.get(IMAGES, {}).get(
            "throughput_ratio_8_clients_same_cores"
        ),
        "throughput_ratio_8_clients_image_same_cores_shared_memory": latency.get(IMAGES, {}).get(
            "throughput_ratio_8_clients_same_cores_shared_memory"
        ),
        "bytes_per_inference": main.get("bytes_per_inference"),
        "bytes_per_inference_image": latency.get(IMAGES, {}).get("bytes_per_inference"),
        "pretended_device_per_s": _pretended(numbers, CONSTITUENTS),
        "pretended_device_per_s_image": _pretended(numbers, IMAGES),
        "remote_throughput_ratio": far.get("throughput_ratio"),
        "remote_throughput_ratio_image": remote.get(IMAGES, {}).get("throughput_ratio"),
        "remote_throughput_ratio_image_gzip": remote.get(f"{IMAGES}, gzip", {}).get("throughput_ratio"),
    }
