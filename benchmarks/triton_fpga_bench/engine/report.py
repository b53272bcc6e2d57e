"""What `bench engine` measured, as tables and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fpga_ops.runtime.terminal import console as make_console

NAMES = {
    "ours": "triton-fpga int8",
    "ours@1": "triton-fpga int8, 1 core",
    "openvino_int8": "OpenVINO int8",
    "openvino_bf16": "OpenVINO bf16",
    "openvino_fp32": "OpenVINO fp32",
    "ort_int8": "onnxruntime int8",
    "ort_fp32": "onnxruntime fp32",
}


def _title(name: str) -> str:
    """A contestant's name for people."""
    if name.startswith("ours_"):
        return f"{NAMES['ours']}, {name.removeprefix('ours_')}"
    base, _, held = name.partition("@")
    return NAMES.get(name) or f"{NAMES.get(base, base)}{held and f', held to {held}'}"


def show(result: dict[str, Any], console: Console | None = None) -> None:
    """Print everything that was measured."""
    out = console or make_console()
    out.print(f"{result['cpu']}, {result['cores']} cores; instruction set: {result['isa']}")
    _race(out, "one inference after the other, end to end", result)
    verdict = (
        "every output equals the reference" if result["bit_exact"] else "[red]outputs differ from the reference[/]"
    )
    out.print(f"{result['compared']} timed inferences compared, {result['wrong']} wrong: {verdict}")
    if result["python_ms"] is not None:
        out.print(
            f"load {result['load_s']:.2f} s, Python per inference {result['python_ms']:.3f} ms, "
            f"resident {result['rss_mb']:.0f} MB"
        )
    if result["missing_peers"]:
        out.print(f"not installed: {', '.join(result['missing_peers'])}")
    for key, title in (("throughput", "requests back to back"), ("batch8", "batch 8, per image"),
                       ("scaling", "scaling with cores"), ("isas_race", "instruction sets")):  # fmt: skip
        if key in result:
            _race(out, title, result[key])
    for name, one in result.get("isas", {}).items():
        for rival in (rival for rival in one["ratio"] if "@" in rival):
            out.print(f"{_title('ours_' + name)} against {_title(rival)}: {one['ratio'][rival]:.2f}x")
    for name, race in result.get("models", {}).items():
        _race(out, name, race)
    if "layers" in result:
        _layers(out, result["layers"])
    if "growth" in result:
        grown = result["growth"]
        memory = grown["resident_mb"]
        out.print(
            f"{grown['inferences']} inferences, {grown['wrong']} wrong: resident {memory[0]:.1f} MB after the first "
            f"{grown['every']}, {memory[-1]:.1f} MB at the end"
        )


def _race(out: Console, title: str, race: dict[str, Any]) -> None:
    noise = f"; {race['noisy_rounds']} of {race['rounds']} rounds on a busy machine" if race["noisy_rounds"] else ""
    table = Table(
        "", "median ms", "least ms", "over ours", "by least", "by round", "least CPU ms", "off the file by",
        title=f"{race['model']}, batch {race['batch']}, {race['threads']} threads: {title}{noise}",
        title_justify="left", box=None,
    )  # fmt: skip
    for name, value in race["ms"].items():
        ratio = [race[key].get(name) for key in ("ratio", "ratio_min", "ratio_round_minima")]
        cells = ["" if r is None else f"{r:.2f}x" for r in ratio]
        used = race["cpu_ms_min"].get(name)
        cells.append("" if used is None else f"{used:.2f}")
        off = race.get("off", {}).get(name)
        cells.append("" if off is None else f"{off:.2g}")
        table.add_row(_title(name), f"{value:.2f}", f"{race['ms_min'][name]:.2f}", *cells)
    out.print(table)


def _layers(out: Console, data: dict[str, Any]) -> None:
    table = Table(
        "layer", "kind", "us", "GOP/s", "of ceiling", "tasks", "shape", title="layers", title_justify="left", box=None
    )
    for row in data["layers"]:
        speed = (f"{row['gops']:.0f}", f"{row['share']:.0%}") if row["gops"] else ("", "")
        table.add_row(row["layer"], row["kind"], f"{row['us']:.1f}", *speed, str(row["tasks"]), row["shape"])
    out.print(table)
    out.print(
        f"{data['gop']:.2f} GOP in {data['device_ms']:.2f} ms: {data['share']:.0%} of the ceiling, "
        f"{data['ceiling_gops']:.0f} GOP/s of {data['instruction']}"
    )
    workers = data["workers"]
    out.print(
        f"of these, ms: at work {workers['work_ms']:.2f}, waiting for another core {workers['wait_ms']:.2f}, "
        f"outside the kernel {workers['outside_ms']:.2f} (layers one by one, undisturbed: {data['layers_ms']:.2f})"
    )


def plot(result: dict[str, Any], path: Path) -> None:
    """Save times of all contestants, and each layer's share of the ceiling."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = result.get("layers", {}).get("layers", [])
    figure, axes = plt.subplots(1, 2 if rows else 1, figsize=(13 if rows else 7, 4.5), squeeze=False)
    names = list(result["ms"])
    left = axes[0][0]
    bars = left.barh([_title(n) for n in names], [result["ms"][n] for n in names], color="C0")
    left.bar_label(bars, fmt="%.2f ms")
    left.invert_yaxis()
    left.set_xlabel("median time of an inference [ms]")
    left.set_title(f"{result['model']}, batch {result['batch']}, {result['threads']} cores", loc="left", fontsize=10)
    left.margins(x=0.2)
    if rows:
        right = axes[0][1]
        shown = [row for row in rows if row["gops"]]
        right.bar(range(len(shown)), [row["share"] for row in shown], color="C1")
        right.axhline(1.0, color="black", linewidth=0.8)
        right.set_xlabel("convolution, in order")
        right.set_ylabel("share of the instruction's ceiling")
        right.set_title(result["layers"]["instruction"], loc="left", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
