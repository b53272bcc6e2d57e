"""The report of `triton-fpga bench service`: Markdown, JSON and plots."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sonic_client.demo import plots

Numbers = dict[str, Any]
_PARTS = (
    ("client_ms", "client"),
    ("network_ms", "network, RPC"),
    ("queue_ms", "queue"),
    ("input_ms", "input to the backend"),
    ("python_ms", "Python of the backend"),
    ("device_ms", "device"),
    ("output_ms", "output"),
    ("server_other_ms", "rest of the server"),
)


def write(numbers: Numbers, folder: Path) -> None:
    """Write `report.json`, `report.md` and the plots."""
    (folder / "report.json").write_text(json.dumps(numbers, indent=2) + "\n")
    (folder / "report.md").write_text(markdown(numbers))
    for model, measured in numbers.get("scaling", {}).items():
        _plot_scaling(model, measured, folder / f"scaling_{model}.png")
    if numbers.get("breakdown"):
        _plot_breakdown(numbers["breakdown"], folder / "breakdown.png")
    if numbers.get("remote"):
        _plot_remote(numbers["remote"], folder / "remote.png")


def markdown(numbers: Numbers) -> str:
    """The report for people."""
    lines = [
        "# The service, measured",
        "",
        f"Device: {numbers['device']}, {numbers['precision']}. Machine: {numbers['machine']}. "
        f"Made by `{numbers['command']}` on {numbers['date']}.",
        "",
        "Milliseconds and requests per second at batch one unless said otherwise. Everything but the rows marked "
        "*published* was measured in this run, on this machine.",
        "",
    ]
    for name, section in _SECTIONS.items():
        if numbers.get(name):
            lines += section(numbers[name])
    for what, reason in numbers.get("failed", {}).items():
        lines += [f"**Not measured, because it failed:** {what}: {reason.splitlines()[0]}", ""]
    lines += ["## In short", "", "| | |", "|---|---|"]
    lines += [
        f"| `{key}` | {value if value is None else f'{value:.4g}'} |" for key, value in numbers["summary"].items()
    ]
    return "\n".join(lines) + "\n"


def _table(rows: list[Numbers]) -> list[str]:
    lines = [
        "## Time per image",
        "",
        "| | ms per image | images/s | time over this service's |",
        "|---|---|---|---|",
    ]
    for row in rows:
        ratio = f"{row['speed_of_service_over_it']:.2f}" if "speed_of_service_over_it" in row else ""
        lines.append(f"| {row['what']} | {row['ms_per_image']:.2f} | {row['images_per_s']:.1f} | {ratio} |")
    return [*lines, ""]


def _latency(models: Numbers) -> list[str]:
    lines = [
        "## What the service adds to the bare call",
        "",
        "| model | bare | gRPC | gRPC, shared memory | HTTP | HTTP, shared memory | plain tritonclient, gRPC "
        "| gRPC, a model that only calls the network |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, measured in models.items():
        median = measured["median_ms"]
        cells = [f"{median['bare']:.2f}"] + [
            f"{median[way]:.2f} (+{median[way] - median['bare']:.2f})"
            for way in ("grpc", "grpc_shared_memory", "http", "http_shared_memory", "plain", "least")
        ]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    lines += [
        "",
        "| model | bare call in a loop, calls/s | eight connections, requests/s | ratio "
        "| cores that the load generator took of it | bytes a request |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {model}{way.replace('_', ' ')} | {m['bare_per_s']:.1f} | {m[f'eight_connections_per_s{way}']:.1f} "
        f"| {m[f'throughput_ratio_8_clients{way}']:.3f} | {m[f'load_generator_cores{way}']:.2f} "
        f"| {m['bytes_per_inference'] if not way else 0:.0f} |"
        for model, m in models.items()
        for way in ("", "_same_cores", "_same_cores_shared_memory")
        if f"eight_connections_per_s{way}" in m
    ]
    return [*lines, ""]


def _scaling(models: Numbers) -> list[str]:
    lines: list[str] = []
    for model, measured in models.items():
        lines += [f"## {model}: simultaneous clients", "", f"![latency and throughput](scaling_{model}.png)", ""]
        lines += [
            "| connections | mean | median | p99 | requests/s | repeated | failed |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {p['connections']} | {p['mean_ms']:.2f} | {p['p50_ms']:.2f} | {p['p99_ms']:.2f} "
            f"| {p['throughput_per_s']:.1f} | {p['repeated']} | {p['failures']} |"
            for p in measured["closed_loop"]
        ]
        lines += ["", f"Saturated from {measured['saturation_connections']} connections on.", ""]
        lines += ["| Poisson arrivals/s | mean | median | p99 | answered/s | failed |", "|---|---|---|---|---|---|"]
        for p in measured["open_loop"]:
            offered = f"{p['offered_per_s']:.1f} ({p['load']:.0%})"
            times = f"{p['mean_ms']:.2f} | {p['p50_ms']:.2f} | {p['p99_ms']:.2f}"
            lines.append(f"| {offered} | {times} | {p['throughput_per_s']:.1f} | {p['failures']} |")
        lines += ["", "Latency of the open loop counts from the time a request was due.", ""]
    return lines


def _remote(models: Numbers) -> list[str]:
    lines = [
        "## Near and far",
        "",
        "![throughput over the link](remote.png)",
        "",
        "| model | round trip | one in flight, median | many in flight, requests/s | bytes a request | Mbit/s |",
        "|---|---|---|---|---|---|",
    ]
    for model, measured in models.items():
        for p in measured["points"]:
            many, one = p["many_in_flight"], p["one_in_flight"]
            cells = [
                f"{p['rtt_ms']:g}", f"{one['p50_ms']:.1f}", f"{many['throughput_per_s']:.1f}",
                f"{p['link_bytes_per_inference']:.0f}", f"{p['link_mbit_per_s']:.1f}",
            ]  # fmt: skip
            lines.append(f"| {model} | {' | '.join(cells)} |")
        lines.append(f"| {model} | far over near | | {measured['throughput_ratio']:.3f} | | |")
    return [*lines, ""]


def _remote_skipped(why: str) -> list[str]:
    return ["## Near and far", "", f"Not measured: {why}.", ""]


def _breakdown(measured: Numbers) -> list[str]:
    models = list(measured)
    lines = ["## Where the time goes", "", "![parts of a request](breakdown.png)", ""]
    lines += [f"| ms, mean | {' | '.join(models)} |", "|---" * (len(models) + 1) + "|"]
    for key, label in (*_PARTS, ("total_ms", "total")):
        lines.append(f"| {label} | {' | '.join(f'{measured[model][key]:.3f}' for model in models)} |")
    return [*lines, ""]


def _overlap(measured: Numbers) -> list[str]:
    (ms,) = {found["device_ms"] for found in measured.values()}
    counts = list(next(iter(next(iter(measured.values()))["per_s"].values())))
    lines = ["## A device that leaves the processor alone", ""]
    (host_ms,) = {found["host_ms"] for found in measured.values()}
    what = f"Pretended: {ms:g} ms for each image, {1e3 / ms:.0f} a second at the most, and {host_ms:g} ms of the host."
    lines += [f"{what} Answers per second:", ""]
    lines += [
        f"| model | the device gets | {' | '.join(f'{n} clients' for n in counts)} |",
        "|---" * (len(counts) + 2) + "|",
    ]
    for model, found in measured.items():
        for way, rates in found["per_s"].items():
            lines.append(f"| {model} | {way} | {' | '.join(f'{rate:.0f}' for rate in rates.values())} |")
    return [*lines, ""]


_SECTIONS: dict[str, Callable[[Any], list[str]]] = {
    "table": _table,
    "latency": _latency,
    "scaling": _scaling,
    "remote": _remote,
    "remote_skipped": _remote_skipped,
    "breakdown": _breakdown,
    "overlap": _overlap,
}
"""The parts of the report in order, by what was measured."""


def _plot_scaling(model: str, measured: Numbers, path: Path) -> None:
    fig, (times, rates) = plots.panels(2)
    points = measured["closed_loop"]
    x = [p["connections"] for p in points]
    for key, label in (("mean_ms", "mean"), ("p50_ms", "median"), ("p99_ms", "p99")):
        times.plot(x, [p[key] for p in points], "o-", label=label)
    times.set(xscale="log", yscale="log", xlabel="simultaneous connections", ylabel="time of a request [ms]")
    times.axvline(measured["saturation_connections"], ls=":", color="grey", label="saturation")
    times.legend(fontsize=11)
    times.set_title(f"{model}, closed loop", fontsize=13, loc="left")
    open_loop = measured["open_loop"]
    for key, label in (("p50_ms", "median"), ("p99_ms", "p99")):
        rates.plot([p["offered_per_s"] for p in open_loop], [p[key] for p in open_loop], "o-", label=label)
    rates.axvline(measured["most_per_s"], ls=":", color="grey", label="closed-loop maximum")
    rates.set(yscale="log", xlabel="Poisson arrivals per second", ylabel="time from when it was due [ms]")
    rates.legend(fontsize=11)
    plots.save(fig, path)


def _plot_breakdown(measured: Numbers, path: Path) -> None:
    fig, axes = plots.figure(8.0, 5.0)
    models = list(measured)
    base = [0.0] * len(models)
    for number, (key, label) in enumerate(_PARTS):
        values = [max(0.0, measured[model][key]) for model in models]
        axes.barh(models, values, left=base, label=label, color=plots.colour(number))
        base = [a + b for a, b in zip(base, values, strict=True)]
    axes.set(xlabel="time of a request at batch one [ms]")
    axes.legend(fontsize=10, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    plots.save(fig, path)


def _plot_remote(measured: Numbers, path: Path) -> None:
    fig, axes = plots.figure()
    for model, values in measured.items():
        near = values["points"][0]["many_in_flight"]["throughput_per_s"]
        x = [p["rtt_ms"] for p in values["points"]]
        axes.plot(x, [p["many_in_flight"]["throughput_per_s"] / near for p in values["points"]], "o-", label=model)
    axes.set(xlabel="round-trip time [ms]", ylabel="throughput over that at no delay", ylim=(0, 1.15))
    axes.axhline(0.95, ls=":", color="grey", label="goal")
    axes.legend()
    plots.save(fig, path)
