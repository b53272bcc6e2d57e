"""The demonstration: start Triton, tag the shipped jets over gRPC and HTTP, show how well and how fast."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from sonic_client.client import Client
from sonic_client.core.server_metrics import read_provenance
from sonic_client.demo import plots
from sonic_client.demo.roc import auc
from sonic_client.errors import BadReplyError, JetError
from sonic_client.events.branches import find_constituents
from sonic_client.events.files import open_source

MODEL = "top_tagger"
_OVER_HTTP = 16
_ONE_AT_A_TIME = 200


@dataclass(frozen=True)
class Sample:
    """Labelled jets: constituents as an awkward record of jagged E, px, py, pz, and is_top bool[N]."""

    constituents: Any
    is_top: NDArray[np.bool_]


@dataclass(frozen=True)
class Report:
    """What the demonstration measured; `report.json` holds it under these names."""

    jets: int
    auc: float
    throughput_per_s: float
    p50_ms: float
    p99_ms: float
    under_load_p50_ms: float
    under_load_p99_ms: float
    in_flight: int
    model: str
    model_version: str
    device: str
    precision: str
    kernel: str
    on_device: list[str]
    on_cpu: list[str]
    bytes_per_inference: float
    http_equals_grpc: bool


def read_sample(path: Path, jets: int | None = None) -> Sample:
    """Read labelled jets from a file with jagged constituents and is_top. Raises FileError or JetError."""
    source = open_source(path, None)
    names = find_constituents(source.columns).names
    if "is_top" not in source.columns:
        raise JetError(f"{path}: there is no branch is_top; there are {', '.join(source.columns)}")
    arrays = source.read([*names.values(), "is_top"], 0, source.entries if jets is None else min(jets, source.entries))
    return Sample(
        ak.zip({component: arrays[branch] for component, branch in names.items()}),
        ak.to_numpy(arrays["is_top"]).astype(bool),
    )


def demonstrate(repository: Path, sample: Path, output: Path, *, jets: int | None, console: Console) -> Report:
    """Run the demonstration and write scores, plots and report into `output`; `jets` limits their number.

    Raises:
        BadReplyError: gRPC and HTTP do not give the same scores.
        JetError, FileError: The sample cannot be read.
        ServerError: The server does not start.
    """
    from triton_server.supervisor.context import watched

    data = read_sample(sample, jets)
    output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with console.status("Starting the Triton server with the fpga backend ..."):
            server = stack.enter_context(watched(repository)).server
        stack.push(lambda *_: console.print("Stopping the server ..."))
        console.print(f"Triton is ready: grpc://{server.grpc_url}, http://{server.http_url}")
        with (
            Client(f"triton+grpc://{server.grpc_url}/{MODEL}", max_in_flight=8) as grpc,
            Client(f"triton+http://{server.http_url}/{MODEL}") as http,
        ):
            scores, seconds, loaded = _tag_all(grpc, data, console)
            single = _one_at_a_time(grpc, data)
            few = slice(0, _OVER_HTTP)
            equal = bool(np.array_equal(http.tag(data.constituents[few]), scores[few]))
            version = _version(grpc, data)
            sent = grpc.statistics()
        facts = read_provenance(server.metrics_url, MODEL)
    on_device, on_cpu = _placement(repository / MODEL / version / "model.onnx")
    report = Report(
        jets=len(scores),
        auc=auc(data.is_top, scores),
        throughput_per_s=len(scores) / seconds,
        p50_ms=float(np.quantile(single, 0.5)),
        p99_ms=float(np.quantile(single, 0.99)),
        under_load_p50_ms=float(np.quantile(loaded, 0.5)),
        under_load_p99_ms=float(np.quantile(loaded, 0.99)),
        in_flight=8,
        model=MODEL,
        model_version=version,
        device=facts.get("device", "unknown"),
        precision=facts.get("precision", "unknown"),
        kernel=facts.get("kernel", "unknown"),
        on_device=on_device,
        on_cpu=on_cpu,
        bytes_per_inference=sent.bytes_sent / max(1, sent.inferences),
        http_equals_grpc=equal,
    )
    _write(output, data, scores, report)
    if not equal:
        raise BadReplyError("HTTP and gRPC gave different scores for the same jets", model=MODEL)
    return report


def show(report: Report, output: Path, console: Console) -> None:
    """The table."""
    table = Table(title="Top tagging as a service", show_header=False)
    for name, value in (
        ("jets", f"{report.jets}"),
        ("AUC", f"{report.auc:.4f}"),
        ("throughput", f"{report.throughput_per_s:.0f} jets/s ({report.in_flight} requests in flight, batch one)"),
        ("latency, one at a time", f"p50 {report.p50_ms:.2f} ms, p99 {report.p99_ms:.2f} ms"),
        ("latency, under that load", f"p50 {report.under_load_p50_ms:.2f} ms, p99 {report.under_load_p99_ms:.2f} ms"),
        ("sent per jet", f"{report.bytes_per_inference:.0f} bytes (its image would be 602112)"),
        ("model", f"{report.model} version {report.model_version}"),
        ("device", report.device),
        ("precision", report.precision),
        ("ran on the device", _nodes(report.on_device)),
        ("ran on the CPU", _nodes(report.on_cpu)),
        ("HTTP", "the same scores, to the bit" if report.http_equals_grpc else "OTHER SCORES"),
    ):
        table.add_row(name, value)
    console.print(table)
    console.print(f"Scores, plots and report.json are in {output}/")


@contextmanager
def progress_bar(console: Console, text: str, total: int) -> Iterator[Any]:
    """A bar; the value is a function to call with the number of jets just done."""
    columns = (
        SpinnerColumn(),
        TextColumn(text),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("jets"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done: bar.advance(task, done)


def _tag_all(client: Client, data: Sample, console: Console) -> tuple[NDArray[np.float32], float, NDArray[np.float64]]:
    """Scores, seconds, and every request's latency in ms."""
    client.tag(data.constituents[:1])
    with progress_bar(console, "Tagging over gRPC", len(data.is_top)) as done:
        began = time.perf_counter()
        scores = ak.to_numpy(client.tag(data.constituents, progress=done))
        seconds = time.perf_counter() - began
    return scores, seconds, np.asarray(client.statistics().latencies_ms)[1:]


def _one_at_a_time(client: Client, data: Sample) -> NDArray[np.float64]:
    """Milliseconds of single jets, each sent when the one before it is answered."""
    from sonic_client.events.jets import prepare

    name = client.info().inputs[0].name
    times = []
    for tensor in prepare(data.constituents[:_ONE_AT_A_TIME]).chunks(1):
        began = time.perf_counter()
        client.infer({name: tensor})
        times.append((time.perf_counter() - began) * 1e3)
    return np.asarray(times)


def _version(client: Client, data: Sample) -> str:
    from sonic_client.events.jets import prepare

    tensor = next(prepare(data.constituents[:1]).chunks(1))
    return client.infer({client.info().inputs[0].name: tensor}).model_version


def _placement(model: Path) -> tuple[list[str], list[str]]:
    """Names of the ONNX nodes that the device runs, and of those that onnxruntime runs on the CPU."""
    from fpga_ops.importer import import_model

    partition = import_model(model)
    return list(partition.device_nodes), [*partition.before.nodes, *partition.after.nodes]


def _nodes(names: list[str]) -> str:
    shown = ", ".join(names) if len(names) <= 6 else f"{names[0]} ... {names[-1]}"
    return f"{len(names)} nodes: {shown}"


def _write(output: Path, data: Sample, scores: NDArray[np.float32], report: Report) -> None:
    import uproot

    columns = {"score": scores, "is_top": data.is_top}
    with uproot.recreate(output / "scores.root") as file:
        file.mktree("scores", {name: values.dtype for name, values in columns.items()}).extend(columns)
    ak.to_parquet(ak.zip(columns), output / "scores.parquet")
    title = f"{report.model} v{report.model_version}, {report.precision} on {report.device}, {report.jets} jets"
    plots.roc(data.is_top, scores, output / "roc.png", title)
    plots.score_histogram(data.is_top, scores, output / "scores.png", title)
    (output / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
