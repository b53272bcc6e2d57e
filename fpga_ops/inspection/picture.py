"""A picture of a partition: what onnxruntime runs, what the device runs, and how the steps hang together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fpga_ops.importer.partition import Part, Partition
from fpga_ops.inspection.summary import detail
from fpga_ops.ir.network import Conv, MaxPool, Step, sources

COLOURS = {"Conv": "#4c78a8", "MaxPool": "#72b7b2", "GlobalAveragePool": "#72b7b2", "Add": "#eeca3b"}
RESIDUAL = "#e45756"
OUTSIDE = "#bab0ac"
LINK = "#888888"
WIDTH = 4
"""Most steps in a row."""


def draw(partition: Partition, file: Path, title: str = "") -> None:
    """Draw a partition into a PNG, SVG or PDF file, by its suffix.

    A row ends with an addition, so it is a residual block; rows go down, then on in the next column. Red curves are
    the residual operands, grey ones other inputs that are not the step before.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    network = partition.network
    blocks = _blocks(network.steps)
    columns = min(4, -(-len(blocks) // 6))
    rows = -(-len(blocks) // columns)
    place: dict[str, tuple[float, float]] = {}
    for number, block in enumerate(blocks):
        left = (WIDTH + 0.9) * (number // rows) + WIDTH - len(block)  # aligned at the right
        place.update({step.output: (left + index, number % rows) for index, step in enumerate(block)})
    right = (WIDTH + 0.9) * columns - 1.0
    figure = Figure(figsize=(1.3 * (right + 1), 0.85 * rows + 2.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(-0.6, right + 0.1)
    axes.set_ylim(rows + 0.7, -1.6)
    _outside(axes, partition, partition.before, -1.0, right, "before")
    _outside(axes, partition, partition.after, rows + 0.2, right, "after")
    previous = None
    for step in network.steps:
        _box(axes, partition, step, *place[step.output])
        _links(axes, step, previous, place)
        previous = step.output
    gop = network.operations / 1e9
    nodes = len(partition.device_nodes)
    axes.set_title(f"{title}   device: {len(network.steps)} steps for {nodes} ONNX nodes, {gop:.2f} GOP per image")
    figure.savefig(file, dpi=110)


def _blocks(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps by rows: a row ends with an addition, or is full."""
    blocks: list[list[Step]] = [[]]
    for step in steps:
        if len(blocks[-1]) == WIDTH:
            blocks.append([])
        blocks[-1].append(step)
        if len(sources(step)) == 2:
            blocks.append([])
    # The stem and its pool are a row of their own, before the first block.
    if blocks and len(blocks[0]) > 1 and isinstance(blocks[0][1], MaxPool):
        rest = blocks[0][2:]
        blocks[0] = blocks[0][:2]
        blocks[1] = rest + blocks[1]
        if len(blocks[1]) > WIDTH:
            blocks[1:2] = [blocks[1][:WIDTH], blocks[1][WIDTH:]]
    return [block for block in blocks if block]


def _links(axes: Any, step: Step, previous: str | None, place: dict[str, tuple[float, float]]) -> None:
    """Lines from a step's sources; the step before it in the row above is read as text is, without a line."""
    x, y = place[step.output]
    operands = sources(step)
    for position, name in enumerate(operands):
        if name not in place:
            continue
        sx, sy = place[name]
        if name == previous and position == 0:
            if sy == y:
                axes.plot([sx + 0.44, x - 0.44], [y, y], color="black", lw=1.2, zorder=1)
            continue
        red = position == 1
        if sx == x and sy == y - 1:  # the end of the row above: along the right margin
            start, end, curve = (sx + 0.43, sy), (x + 0.43, y), "arc3,rad=-0.45"
        elif sy == y:
            start, end, curve = (sx, sy - 0.3), (x, y - 0.3), "arc3,rad=-0.2"
        elif sy == y - 1:
            start, end, curve = (sx - 0.2, sy + 0.3), (x + 0.1, y - 0.3), "arc3,rad=0"
        else:  # from another column of the picture: a stub from above
            start, end, curve = (x, y - 0.62), (x, y - 0.3), "arc3,rad=0"
        arrow = {"arrowstyle": "-|>", "color": RESIDUAL if red else LINK, "lw": 1.1, "connectionstyle": curve}
        axes.annotate("", xy=end, xytext=start, zorder=1, arrowprops=arrow)


def _box(axes: Any, partition: Partition, step: Step, x: float, y: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    kind = type(step).__name__
    tensor = partition.network.tensors[step.output]
    edge = RESIDUAL if isinstance(step, Conv) and step.residual is not None else "white"
    axes.add_patch(
        FancyBboxPatch(
            (x - 0.41, y - 0.28), 0.82, 0.56, boxstyle="round,pad=0.02", facecolor=COLOURS[kind], edgecolor=edge,
            lw=1.8, zorder=2,
        )
    )  # fmt: skip
    label = {"GlobalAveragePool": "average", "MaxPool": "max pool", "Conv": "conv", "Add": "add"}[kind]
    text = f"{label} {detail(step)}".replace(" + residual", " + add")
    size = f"{tensor.height}x{tensor.width}x{tensor.channels}"
    axes.text(x, y, f"{text}\n{size}", ha="center", va="center", fontsize=7.5, color="white", zorder=3)


def _outside(axes: Any, partition: Partition, part: Part, y: float, right: float, what: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    operators = {node.name: node.operator for node in partition.graph.nodes}
    count = Counter(operators[name] for name in part.nodes)
    words = [f"{name} x{number}" if number > 1 else name for name, number in count.most_common(12)]
    rest = len(count) - len(words)
    listed = ", ".join(words) + (f" and {rest} more operators" if rest > 0 else "")
    names = ", ".join(part.inputs if what == "before" else part.outputs)
    if not part.nodes:
        listed = "nothing: the device quantises the file's input" if what == "before" else "nothing"
        names = ", ".join(partition.graph.inputs) if what == "before" else names
    arrow = f"{names} →  " if what == "before" else ""
    tail = "" if what == "before" else f"  → {names}"
    axes.add_patch(
        FancyBboxPatch(
            (-0.43, y - 0.3), right + 0.3, 0.6, boxstyle="round,pad=0.02", facecolor=OUTSIDE, edgecolor="white"
        )
    )
    text = f"{arrow}CPU, onnxruntime ({what}, {len(part.nodes)} nodes): {listed}{tail}"
    axes.text((right - 0.55) / 2, y, text, ha="center", va="center", fontsize=8, wrap=True)
