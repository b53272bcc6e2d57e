"""The five measurements. Each returns plain numbers; `report` writes them down."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpga_ops.runtime.onnxruntime_import import import_onnxruntime
from sonic_client.client import Client
from sonic_client.core.server_metrics import read_metric
from triton_fpga_bench.service import inputs, minimal_backend
from triton_fpga_bench.service.client_load import Load, measure
from triton_fpga_bench.service.far_link import SERVER_ADDRESS, Link, inside

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A served model and what is sent to it."""

    name: str
    path: Path
    rows: NDArray[np.float32]
    file: Path

    @property
    def shape(self) -> str:
        """Of one request, for the report."""
        return "x".join(map(str, self.rows.shape[1:]))


@dataclass(frozen=True)
class Plan:
    """What to measure with: repository, device, length of the runs."""

    repository: Path
    sample: Path | None
    folder: Path
    seconds: float
    rounds: int
    connections: tuple[int, ...]
    loads: tuple[float, ...]
    rtts_ms: tuple[float, ...]
    in_flight: int
    turns: int
    say: Callable[[str], None]


CONSTITUENTS, IMAGES = "top_tagger", "resnet50_top"
INPUTS = {CONSTITUENTS: "constituents", IMAGES: "images"}


def find_models(plan: Plan) -> dict[str, Model]:
    """The two served models, with inputs, at the newest version in the repository."""
    models = {}
    for name in (CONSTITUENTS, IMAGES):
        versions = [
            int(p.parent.name) for p in (plan.repository / name).glob("*/model.onnx") if p.parent.name.isdecimal()
        ]
        if not versions:
            continue
        rows = inputs.constituents(plan.sample) if name == CONSTITUENTS else inputs.images((3, 224, 224))
        file = plan.folder / f"{name}.npy"
        np.save(file, rows)
        models[name] = Model(name, plan.repository / name / str(max(versions)) / "model.onnx", rows, file)
    return models


def added_latency(plan: Plan, grpc: str, http: str, model: Model, device: str) -> Numbers:
    """Median ms at batch one of the bare `fpga_ops` call and of every way through Triton, interleaved by rounds.

    `plain` is tritonclient's own blocking gRPC client: what of the added time is not this client's. `least` asks a
    model that only calls the network, with this client over gRPC: what of it is not the plugin's. Each round has an
    order of its own, so that none has always the same one before it.
    """
    import tritonclient.grpc

    import fpga_ops

    network = fpga_ops.load(model.path, device)
    with ExitStack() as stack:
        stack.callback(network.close)

        def client(url: str, shared: bool) -> Callable[[dict[str, Any]], object]:
            opened = stack.enter_context(Client(f"triton+{url}/{model.name}", shared_memory=shared))
            return opened.infer

        ways: dict[str, Callable[[dict[str, Any]], object]] = {
            "bare": network.run,
            "grpc": client(f"grpc://{grpc}", shared=False),
            "grpc_shared_memory": client(f"grpc://{grpc}", shared=True),
            "http": client(f"http://{http}", shared=False),
            "http_shared_memory": client(f"http://{http}", shared=True),
        }
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        channel = [*unlimited, ("grpc.enable_http_proxy", 0)]
        bystander = stack.enter_context(tritonclient.grpc.InferenceServerClient(grpc, channel_args=channel))

        def plain(inputs: dict[str, Any]) -> object:
            given = [tritonclient.grpc.InferInput(key, list(value.shape), "FP32") for key, value in inputs.items()]
            for one, value in zip(given, inputs.values(), strict=True):
                one.set_data_from_numpy(value)
            return bystander.infer(model.name, given).as_numpy("probabilities")

        ways["plain"] = plain
        description = network.describe()
        least_url = stack.enter_context(
            minimal_backend.serving(plan.folder, model.name, model.path, description, device)
        )
        ways["least"] = client(f"grpc://{least_url}", shared=False)
        name = next(iter(description["inputs"]))
        times: dict[str, list[float]] = {way: [] for way in ways}
        order = list(ways)
        chance = random.Random(1)  # noqa: S311 - an order, no secret
        for round_number in range(plan.rounds + 3):
            row = round_number % len(model.rows)
            tensor = {name: np.ascontiguousarray(model.rows[row : row + 1])}
            chance.shuffle(order)
            for way in order:
                call = ways[way]
                began = time.perf_counter()
                call(tensor)
                if round_number >= 3:
                    times[way].append((time.perf_counter() - began) * 1e3)
    median = {way: float(np.median(values)) for way, values in times.items()}
    best = {way: float(np.min(values)) for way, values in times.items()}
    added = {f"added_{way}": median[way] - median["bare"] for way in ways if way != "bare"}
    return {"median_ms": median, "least_ms": best, "rounds": plan.rounds} | added


def throughput_of_bare_call(model: Model, device: str, seconds: float) -> float:
    """Inferences per second of one thread that calls `fpga_ops` in a loop."""
    import fpga_ops

    network = fpga_ops.load(model.path, device)
    name = next(iter(network.describe()["inputs"]))
    tensor = {name: np.ascontiguousarray(model.rows[:1])}
    for _ in range(3):
        network.run(tensor)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        network.run(tensor)
        count += 1
    rate = count / (time.perf_counter() - began)
    network.close()
    return rate


def scaling(plan: Plan, grpc: str, model: Model) -> Numbers:
    """Latency and throughput against simultaneous connections, and against the rate of Poisson arrivals."""
    url = f"triton+grpc://{grpc}/{model.name}"
    closed = []
    for connections in plan.connections:
        plan.say(f"{model.name}: {connections} connections")
        load = Load(url, str(model.file), plan.seconds, connections=connections)
        closed.append({"connections": connections} | asdict(measure(load, plan.folder)))
    top = max(point["throughput_per_s"] for point in closed)
    saturated = next(point["connections"] for point in closed if point["throughput_per_s"] >= 0.95 * top)
    arrivals = []
    for share in plan.loads:
        plan.say(f"{model.name}: Poisson arrivals at {share:.0%} of {top:.0f}/s")
        load = Load(url, str(model.file), plan.seconds, connections=4, rate=share * top)
        arrivals.append({"offered_per_s": share * top, "load": share} | asdict(measure(load, plan.folder)))
    return {"closed_loop": closed, "open_loop": arrivals, "saturation_connections": saturated, "most_per_s": top}


def remote(plan: Plan, model: Model, start: Callable[..., Any], compression: str | None = None) -> Numbers:
    """The same load on one server over a link of several round-trip times in turn, several times over.

    Throughput, latency and bytes of the link per inference; of each round-trip time the run of median throughput.
    """
    runs: dict[float, list[Numbers]] = {rtt: [] for rtt in plan.rtts_ms}
    with Link(plan.rtts_ms[0]) as link:
        with inside(link.server):
            server = start(address="0.0.0.0")  # noqa: S104 - in a namespace of its own
        try:
            url = f"triton+grpc://{SERVER_ADDRESS}:{server.grpc_port}/{model.name}"
            for _ in range(plan.turns):
                for rtt in plan.rtts_ms:
                    plan.say(f"{model.name}: {rtt:g} ms round trip, {plan.in_flight} in flight")
                    runs[rtt].append(_one_distance(plan, link, rtt, url, model, compression))
        finally:
            server.stop()
    points = [sorted(runs[rtt], key=_throughput)[len(runs[rtt]) // 2] for rtt in plan.rtts_ms]
    return {"points": points, "throughput_ratio": _throughput(points[-1]) / _throughput(points[0])}


def _throughput(point: Numbers) -> float:
    return float(point["many_in_flight"]["throughput_per_s"])


def _one_distance(plan: Plan, link: Link, rtt: float, url: str, model: Model, compression: str | None) -> Numbers:
    """One request in flight, then many, at one round-trip time."""
    link.change(rtt)
    # TCP and HTTP/2 windows open within some round trips.
    warm_up = min(2.0 + rtt / 20, plan.seconds + 2.0)
    many = Load(url, str(model.file), plan.seconds, in_flight=plan.in_flight, compression=compression, warm_up=warm_up)
    with inside(link.client):
        alone = measure(Load(url, str(model.file), min(3.0, plan.seconds), compression=compression), plan.folder)
        loaded = measure(many, plan.folder)
    sent = link.change(rtt)["to_server"] / max(1, alone.answered + loaded.answered)
    return {
        "rtt_ms": rtt,
        "one_in_flight": asdict(alone),
        "many_in_flight": asdict(loaded),
        "link_bytes_per_inference": sent,
        "link_mbit_per_s": loaded.throughput_per_s * sent * 8e-6,
    }


def breakdown(plan: Plan, server: Any, model: Model) -> Numbers:
    """Mean ms of every part of a request's way, at batch one, one at a time."""
    with Client(f"triton+grpc://{server.grpc_url}/{model.name}", shared_memory=False) as client:
        name = client.info().inputs[0].name
        tensors = [{name: np.ascontiguousarray(model.rows[i % len(model.rows)][None])} for i in range(plan.rounds)]
        client.infer(tensors[0])
        time.sleep(2.5)  # until the plugin has told its counts
        before = _device_time(server, model)
        start = client.statistics()
        server_before = _sums(client)
        began = time.perf_counter()
        for tensor in tensors:
            client.infer(tensor)
        elapsed = (time.perf_counter() - began) * 1e3 / len(tensors)
        parts = {key: value - server_before[key] for key, value in _sums(client).items()}
        done = client.statistics()
        requests = done.requests - start.requests
        answer = (done.answer_ms - start.answer_ms) / requests
        waiting = (done.waiting_ms - start.waiting_ms) / requests
        time.sleep(2.5)
        after = _device_time(server, model)
    server_ms = {key: value / requests for key, value in parts.items() if key != "requests"}
    counted = after[1] - before[1]
    device = (after[0] - before[0]) * 1e3 / counted if counted else float("nan")
    return {
        "total_ms": elapsed,
        "client_ms": elapsed - answer,
        "network_ms": max(0.0, answer - waiting - server_ms["server_ms"]),
        "queue_ms": server_ms["queue_ms"],
        "input_ms": server_ms["compute_input_ms"],
        "device_ms": device,
        "python_ms": server_ms["compute_infer_ms"] - device,
        "output_ms": server_ms["compute_output_ms"],
        "server_other_ms": max(
            0.0,
            server_ms["server_ms"]
            - sum(server_ms[key] for key in ("queue_ms", "compute_input_ms", "compute_infer_ms", "compute_output_ms")),
        ),
        "requests": requests,
    }


def _sums(client: Client) -> dict[str, float]:
    """The server's sums in ms since the client began."""
    (means,) = client.server_statistics().values()
    requests = means["requests"]
    return (
        {key: value * requests if key != "requests" else value for key, value in means.items()}
        if requests
        else dict.fromkeys(means, 0.0)
    )


def _device_time(server: Any, model: Model) -> tuple[float, float]:
    """Seconds of the device and inferences, summed over the devices, from the plugin's own metrics."""
    return (
        read_metric(server.metrics_url, "fpga_device_seconds_total", model.name),
        read_metric(server.metrics_url, "fpga_inferences_total", model.name),
    )


def table(plan: Plan, model: Model, latency: Numbers, most_per_s: float, device: str) -> list[Numbers]:
    """Time per image and throughput: this service, onnxruntime and torch on this CPU, batch 1 and 32, in this run."""
    rows = [
        {
            "what": f"this service, {device}, batch 1 over gRPC",
            "ms_per_image": latency["median_ms"]["grpc"],
            "images_per_s": most_per_s,
        },
        {
            "what": f"fpga_ops called directly, {device}, batch 1",
            "ms_per_image": latency["median_ms"]["bare"],
            "images_per_s": 1e3 / latency["median_ms"]["bare"],
        },
    ]
    for peer in (_onnxruntime, _torch):
        for batch in (1, 32):
            plan.say(f"{peer.__name__[1:]}, batch {batch}")
            rows += peer(model, batch)
    reference = rows[0]["ms_per_image"]
    for row in rows:
        row["speed_of_service_over_it"] = row["ms_per_image"] / reference
    return rows


PUBLISHED = (
    {"what": "published (2019): FPGA service, on premises, batch 1", "ms_per_image": 10.0, "images_per_s": 650.0},
    {"what": "published (2019): FPGA service, remote, batch 1", "ms_per_image": 60.0, "images_per_s": 650.0},
    {"what": "published (2019): CPU inside the experiment's framework", "ms_per_image": 1750.0, "images_per_s": 0.6},
    {"what": "published (2019): GTX 1080, batch 1", "ms_per_image": 7.0, "images_per_s": 143.0},
    {"what": "published (2019): GTX 1080, batch 32", "ms_per_image": 1.5, "images_per_s": 667.0},
)
"""J. Duarte et al., "FPGA-accelerated machine learning inference as a service for particle physics computing", 2019."""


def _timed(what: str, run: Callable[[], object], batch: int) -> list[Numbers]:
    for _ in range(2):
        run()
    times: list[float] = []
    end = time.perf_counter() + 4.0
    while time.perf_counter() < end or len(times) < 3:
        began = time.perf_counter()
        run()
        times.append((time.perf_counter() - began) * 1e3 / batch)
    median = float(np.median(times))
    return [{"what": what, "ms_per_image": median, "images_per_s": 1e3 / median}]


def _onnxruntime(model: Model, batch: int) -> list[Numbers]:
    onnxruntime = import_onnxruntime()

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model.path), settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    tensor = np.resize(model.rows, (batch, *model.rows.shape[1:]))
    what = f"onnxruntime {onnxruntime.__version__}, CPU, the same int8 file, batch {batch}"
    return _timed(what, lambda: session.run(None, {name: tensor}), batch)


def _torch(model: Model, batch: int) -> list[Numbers]:
    try:
        import torch
        import torchvision
    except ImportError:
        return []
    if model.rows.ndim != 4:
        return []
    network = torchvision.models.resnet50(num_classes=2).eval().to(memory_format=torch.channels_last)
    tensor = torch.from_numpy(np.resize(model.rows, (batch, *model.rows.shape[1:])))
    tensor = tensor.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return _timed(f"torch {torch.__version__}, CPU, fp32, batch {batch}", lambda: network(tensor), batch)
