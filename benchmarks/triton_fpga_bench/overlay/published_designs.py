"""The cycle model's rule, applied to published designs with their own parameters: how far off is it?

Every design here but FINN computes one layer after the other, VEC input channels x LANE output channels x PIX pixels a
cycle, as the overlay does, so a convolution takes

    groups * ceil(OC / LANE) * rows * ceil(width / PIX) * taps * ceil(C / VEC)        cycles,

and a fully connected layer, used once for each image of a batch, no less than its weights take from external memory.
Unlike the overlay, these designs keep feature maps in external memory. What that costs depends on how the design's
loops use it; `Rule` names the cases:

- "pipecnn": the loops of PipeCNN's public source (from its release of September 2017 on). An output row is done in
  groups of 7 pixels. The first pixel of each group fetches the group's weights anew, while the next group's window of
  the input is fetched all the time. Each of the two phases takes the longer of its steps and its bytes at the memory's
  peak: the very rule of the overlay's weight parts (`cycles.py`). Nothing is fitted.
- "overlapped": each layer takes the longer of its steps and its bytes, read and written once.
- "serial": their sum.
- "streamed": every layer has hardware of its own and its weights on chip; the slowest sets the pace (`Unit`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from fpga_ops.overlay.geometry import ceil_div

Rule: TypeAlias = Literal["overlapped", "serial", "pipecnn", "streamed"]

GROUP = 7
"""PipeCNN's CONV_GP_SIZE_X, as its sources and its authors' answers have it."""


@dataclass(frozen=True)
class Layer:
    """A convolution: output rows and width, input and output channels of one group, kernel size, groups."""

    rows: int
    width: int
    inputs: int
    outputs: int
    kernel: int
    groups: int = 1
    stride: int = 1

    @property
    def weights(self) -> int:
        """Weights of all groups."""
        return self.groups * self.inputs * self.outputs * self.kernel**2

    @property
    def moved(self) -> int:
        """Elements read and written once each: maps in, maps out."""
        maps_in = self.rows * self.width * self.stride**2 * self.inputs
        return self.groups * (maps_in + self.rows * self.width * self.outputs)


@dataclass(frozen=True)
class Unit:
    """A layer's own hardware in a design that streams from layer to layer.

    The window buffer of a convolution takes nothing of the next image before the last row of this one is out. Its
    products then wait for the first `kernel` rows (the last of them is read while the first windows go out), as far as
    the FIFOs before it do not hold them. The row of padding above costs nothing; it fills the FIFO behind the padding.

    Attributes:
        layer: What it computes; a fully connected layer is a convolution of one pixel.
        simd, pe, pixels: Input channels, output channels and output pixels a cycle.
        before: Cycles that the unit before takes for a pixel; 0 if this one has no window to fill.
        ahead: Pixels that the FIFOs before the padding hold.
    """

    layer: Layer
    simd: int
    pe: int
    pixels: int = 1
    before: int = 0
    ahead: int = 0

    @property
    def cycles(self) -> int:
        """From one image to the next."""
        layer = self.layer
        steps = ceil_div(layer.inputs, self.simd) * ceil_div(layer.outputs, self.pe) * layer.kernel**2
        wait = max(0, layer.kernel * layer.width - self.ahead) * self.before
        return layer.rows * ceil_div(layer.width, self.pixels) * steps + wait


@dataclass(frozen=True)
class Network:
    """What a benchmark runs: convolutions, and (inputs, outputs) of fully connected layers."""

    name: str
    layers: tuple[Layer, ...]
    dense: tuple[tuple[int, int], ...] = ()


def _vgg16() -> Network:
    shapes = [(224, 3, 64), (224, 64, 64), (112, 64, 128), (112, 128, 128), (56, 128, 256), (56, 256, 256),
              (56, 256, 256), (28, 256, 512), (28, 512, 512), (28, 512, 512), *[(14, 512, 512)] * 3]  # fmt: skip
    layers = tuple(Layer(size, size, c, o, 3) for size, c, o in shapes)
    return Network("VGG-16", layers, ((25088, 4096), (4096, 4096), (4096, 1000)))


def _alexnet() -> Network:
    layers = (
        Layer(55, 55, 3, 96, 11, stride=4), Layer(27, 27, 48, 128, 5, 2), Layer(13, 13, 256, 384, 3),
        Layer(13, 13, 192, 192, 3, 2), Layer(13, 13, 192, 128, 3, 2),
    )  # fmt: skip
    return Network("AlexNet", layers, ((9216, 4096), (4096, 4096), (4096, 1000)))


def _resnet50() -> Network:
    layers = [Layer(112, 112, 3, 64, 7, stride=2)]
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner, size = 64 << stage, 56 >> stage
        for block in range(blocks):
            stride = 2 if stage and block == 0 else 1
            layers.append(Layer(size * stride, size * stride, inputs, inner, 1))
            layers.append(Layer(size, size, inner, inner, 3, stride=stride))
            if block == 0:
                layers.append(Layer(size, size, inputs, 4 * inner, 1, stride=stride))
            layers.append(Layer(size, size, inner, 4 * inner, 1))
            inputs = 4 * inner
    return Network("ResNet-50", tuple(layers), ((2048, 1000),))


def _resnet18() -> Network:
    layers, inputs = [Layer(112, 112, 3, 64, 7, stride=2)], 64
    for stage in range(4):
        outputs, size = 64 << stage, 56 >> stage
        for block in range(2):
            stride = 2 if stage and block == 0 else 1
            layers.append(Layer(size, size, inputs, outputs, 3, stride=stride))
            layers.append(Layer(size, size, outputs, outputs, 3))
            if stride == 2:
                layers.append(Layer(size, size, inputs, outputs, 1, stride=2))
            inputs = outputs
    return Network("ResNet-18", tuple(layers), ((512, 15),))


def _finn_resnet50(depth: int) -> tuple[Unit, ...]:
    """FINN's ResNet-50 (stride in the first convolution of a block) as its configuration files fold it.

    Left out are units that no parameter makes the slowest: window buffers, width converters, pooling. The largest is
    the stem's window buffer, 7 rows of 229 pixels and then 2 more for each of 112 rows: 52,899 cycles.

    Args:
        depth: Words in the FIFOs between units. Two of them lie between the first two convolutions of a block: one has
            `pe` channels in a word, one a whole pixel.
    """
    units = [Unit(Layer(112, 112, 3, 64, 7, stride=2), 3, 64, pixels=16)]
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner, size = 64 << stage, 56 >> stage
        for block in range(blocks):
            stride = 2 if stage and block == 0 else 1
            pe = 32 if block else 16 if stage else 8
            first = Unit(Layer(size, size, inputs, inner, 1, stride=stride), 32, pe)
            before, ahead = first.cycles // size**2, depth + depth * pe // inner
            units += [first, Unit(Layer(size, size, inner, inner, 3), 64, 32, before=before, ahead=ahead)]
            units.append(Unit(Layer(size, size, inner, 4 * inner, 1), 32, 32))
            if block == 0:
                units.append(Unit(Layer(size, size, inputs, 4 * inner, 1, stride=stride), 64 if stage else 32, 32))
            inputs = 4 * inner
    return (*units, Unit(Layer(1, 1, 2048, 1000, 1), 64, 1))


VGG16, ALEXNET, RESNET18, RESNET50 = _vgg16(), _alexnet(), _resnet18(), _resnet50()


@dataclass(frozen=True)
class Design:
    """A published design and one of its published times.

    Attributes:
        name, device, network: What ran where.
        vec, lane, pix: Its array.
        clock_mhz, ddr_gbs: Its clock; peak of its external memory.
        published_ms: For one image.
        source: Where the figures are from.
        rule: How transfers and multipliers relate.
        given: Whether array, clock and memory are all published for this time; if not, `source` says what is assumed.
        element_bytes: Of weights and activations.
        dense_batch: Images that share a fully connected layer's weights.
        units: The hardware of each layer, for the rule "streamed"; `vec`, `lane`, `pix` are then the slowest one's.
    """

    name: str
    device: str
    network: Network
    vec: int
    lane: int
    pix: int
    clock_mhz: float
    ddr_gbs: float
    published_ms: float
    source: str
    rule: Rule
    given: bool = True
    element_bytes: int = 1
    dense_batch: int = 1
    units: tuple[Unit, ...] = ()

    @property
    def key(self) -> str:
        """Names the row."""
        return f"{self.name} {self.device} {self.vec}x{self.lane}x{self.pix} {self.network.name}"


def _de5net() -> tuple[Design, ...]:
    """PipeCNN's authors' own exploration: run time and clock of each array on the DE5-net (AlexNet)."""
    measured = (
        (8, 4, 252.9, 114.143), (8, 8, 241.1, 60.068), (8, 16, 225.6, 34.247), (8, 22, 188.0, 38.265),
        (8, 28, 195.5, 30.604), (8, 32, 198.9, 21.541), (8, 48, 155.9, 22.474), (16, 4, 248.9, 77.106),
        (16, 8, 232.3, 43.361), (16, 16, 229.1, 24.2), (16, 22, 78.76, 67.432),
    )  # fmt: skip
    source = "doonny/basic_knowledge, PipeCNN_note_resource/de5Alexnet.xlsx; two DDR3-1600 banks"
    return tuple(
        Design("PipeCNN", "Stratix V (DE5-net)", ALEXNET, vec, lane, 1, clock, 25.6, ms, source, "pipecnn")
        for vec, lane, clock, ms in measured
    )


PAPER = "Wang, Xu, Jiang, PipeCNN, FPT 2017, table I"
DESIGNS = (
    Design("PipeCNN", "Arria 10", ALEXNET, 16, 32, 1, 230, 17.0, 22,
           "doonny/PipeCNN issue 103: array, clock, times; board not named, one DDR4-2133 bank assumed", "pipecnn",
           given=False),
    Design("PipeCNN", "Arria 10", VGG16, 16, 32, 1, 230, 17.0, 300, "as above", "pipecnn", given=False),
    Design("PipeCNN", "Arria 10, two banks", ALEXNET, 16, 32, 1, 230, 34.1, 22, "as above, two banks assumed",
           "pipecnn", given=False),
    Design("PipeCNN", "Arria 10, two banks", VGG16, 16, 32, 1, 230, 34.1, 300, "as above, two banks assumed",
           "pipecnn", given=False),
    Design("PipeCNN", "Arria 10, two banks", ALEXNET, 16, 64, 1, 218, 34.1, 11.1,
           "doonny/PipeCNN issue 66: array, time; the paper's clock and two banks assumed", "pipecnn", given=False),
    Design("PipeCNN", "Cyclone V SoC (DE1-SoC)", ALEXNET, 8, 8, 1, 122.53, 3.2, 149.988,
           "doonny/PipeCNN, documents/README.md (log); array, clock: the authors in issue 37", "pipecnn"),
    *_de5net(),
    Design("PipeCNN, paper", "Stratix V (DE5-net)", ALEXNET, 16, 28, 1, 198, 25.6, 15, PAPER, "pipecnn",
           dense_batch=16),
    Design("PipeCNN, paper", "Stratix V (DE5-net)", VGG16, 16, 28, 1, 198, 25.6, 254, PAPER, "pipecnn"),
    Design("PipeCNN, paper", "Arria 10 (DE5a-net)", ALEXNET, 16, 76, 1, 218, 34.1, 5,
           f"{PAPER}; array not published: the largest that its DSP blocks and the authors' rules allow", "pipecnn",
           given=False, dense_batch=16),
    Design("PipeCNN, paper", "Arria 10 (DE5a-net)", VGG16, 16, 76, 1, 218, 34.1, 110, "as above", "pipecnn",
           given=False),
    Design("DPU B4096", "Zynq US+ (ZCU102), one core", RESNET50, 16, 16, 8, 281, 19.2, 11.7,
           "AMD PG338 (8 pixels x 16 x 16), UG1354 (281 MHz); one thread, with the host's part", "serial"),
    Design("DPU B4096", "Zynq US+ (ZCU104), one core", RESNET18, 16, 16, 8, 300, 19.2, 1e3 / 217.7,
           "AMD PG338, UG1354 2.5 (chen_color_resnet18, 217.7 images/s with one thread, 437.1 on two cores)", "serial"),
    Design("Brainwave", "Arria 10", RESNET50, 128, 128, 1, 300, 0.0, 1.79,
           "559 images/s, 44% of peak: 16384 products a cycle, native dimension 128; how they are split is inferred",
           "overlapped", given=False),
    Design("FINN", "Alveo U250", RESNET50, 64, 32, 1, 2703 / 15, 0.0, 1e3 / 2703,
           "Xilinx/ResNet50-PYNQ: folding in src/w1a2_v1.0/*/config.h, FIFOs of 32 in src/hls/reslayer.h, 2703 images/s"
           " in host/README.md (April 2020), 15 images/s a MHz in pull request 5, hence the clock", "streamed",
           units=_finn_resnet50(32)),
    Design("FINN, first build", "Alveo U250", RESNET50, 64, 32, 1, 200, 0.0, 1e3 / 2015,
           "as above, March 2020: FIFOs of 64, 200 MHz in host/Demo.ipynb (901d8be), 2015 images/s in host/README.md "
           "(9156473); the fully connected layer's weights come from DDR", "streamed", units=_finn_resnet50(64)),
)  # fmt: skip
"""Designs of the project's table of peers whose array is public or can be inferred."""


@dataclass(frozen=True)
class Comparison:
    """Model against publication.

    Attributes:
        design: Which.
        overlapped_ms, serial_ms: If every byte moved once, and hid behind the products, or not at all.
        model_ms: By the design's rule.
        layers_ms: The same, for each convolution and fully connected layer (each unit, where they are streamed).
        deviation: model / published - 1.
    """

    design: Design
    overlapped_ms: float
    serial_ms: float
    model_ms: float
    layers_ms: tuple[float, ...]
    deviation: float


def _pipecnn_cycles(layer: Layer, design: Design, bytes_per_cycle: float) -> float:
    """A convolution by PipeCNN's loops: output-channel groups x rows x groups of up to 7 pixels."""
    vectors = ceil_div(layer.inputs, design.vec)
    steps = layer.kernel**2 * vectors  # of one pixel
    window = (layer.kernel + (GROUP - 1) * layer.stride) * layer.kernel * vectors  # vectors of the next group's input
    last = layer.width - (ceil_div(layer.width, GROUP) - 1) * GROUP
    total = 0.0
    for pixels, times in ((GROUP, ceil_div(layer.width, GROUP) - 1), (last, 1)):
        first = max(float(steps), steps * design.vec * (design.lane + 1) / bytes_per_cycle)
        iterations = max(pixels * steps, window if pixels == last else 0)
        rest = max(float(iterations - steps), max(0, window - steps) * design.vec / bytes_per_cycle)
        total += times * (first + rest)
    return layer.groups * ceil_div(layer.outputs, design.lane) * layer.rows * total


def compare(design: Design) -> Comparison:
    """Apply the model to one design."""
    to_ms = 1 / design.clock_mhz / 1e3
    if design.rule == "streamed":
        model = max(unit.cycles for unit in design.units) * to_ms
        layers_ms = tuple(unit.cycles * to_ms for unit in design.units)
        return Comparison(design, model, model, model, layers_ms, model / design.published_ms - 1)
    bytes_per_cycle = design.ddr_gbs * 1e3 / design.clock_mhz if design.ddr_gbs else float("inf")
    overlapped, serial, chosen = [], [], []
    for layer in design.network.layers:
        work = float(
            layer.groups * ceil_div(layer.outputs, design.lane) * layer.rows * ceil_div(layer.width, design.pix)
            * layer.kernel**2 * ceil_div(layer.inputs, design.vec)
        )  # fmt: skip
        transfer = (layer.weights + layer.moved) * design.element_bytes / bytes_per_cycle
        overlapped.append(max(work, transfer))
        serial.append(work + transfer)
        chosen.append(_pipecnn_cycles(layer, design, bytes_per_cycle))
    for inputs, outputs in design.network.dense:
        work = float(ceil_div(outputs, design.lane) * ceil_div(inputs, design.vec))
        transfer = inputs * outputs * design.element_bytes / bytes_per_cycle / design.dense_batch
        overlapped.append(max(work, transfer))
        serial.append(work + transfer)
        chosen.append(max(work, transfer))
    layers = {"overlapped": overlapped, "serial": serial, "pipecnn": chosen}[design.rule]
    model = sum(layers) * to_ms
    return Comparison(
        design, sum(overlapped) * to_ms, sum(serial) * to_ms, model, tuple(cycles * to_ms for cycles in layers),
        model / design.published_ms - 1,
    )  # fmt: skip


def table() -> list[Comparison]:
    """All designs."""
    return [compare(design) for design in DESIGNS]


def markdown() -> str:
    """The table of docs/explanation/fpga-overlay.md."""
    lines = [
        "| design | device | network | array, MHz | published ms | model ms | deviation | bytes once: hidden / not |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in table():
        d = c.design
        array = f"{d.vec}x{d.lane}x{d.pix}, {d.clock_mhz:.5g}{'' if d.given else ' *'}"
        lines.append(
            f"| {d.name} | {d.device} | {d.network.name} | {array} | {d.published_ms:.4g} | {c.model_ms:.3g} | "
            f"{c.deviation:+.0%} | {c.overlapped_ms:.3g} / {c.serial_ms:.3g} |"
        )
    return "\n".join(lines)


def plot(path: Path) -> None:
    """Model against published time with the 15% band; crosses where a parameter was not published."""
    from fpga_ops.overlay.model.roofline import pyplot

    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6.5, 5))
    span = [0.2, 1000.0]
    axes.plot(span, span, color="black", lw=1)
    axes.fill_between(span, [0.85 * x for x in span], [1.15 * x for x in span], color="0.85", label="within 15%")
    colours: dict[str, str] = {}
    for c in table():
        d = c.design
        label = f"{d.name}, {d.device}"
        first = label not in colours
        colour = colours.setdefault(label, f"C{len(colours) % 10}")
        marker = "o" if d.given else "x"
        axes.plot(d.published_ms, c.model_ms, marker, color=colour, label=label if first else None)
    axes.set(xscale="log", yscale="log", xlabel="published ms", ylabel="model ms", xlim=span, ylim=span)
    axes.set_title("Cycle model and published designs (cross: a parameter is assumed)")
    axes.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
