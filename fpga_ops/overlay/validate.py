"""The cycle model's rule, applied to published designs with their own parameters: how far off is it?

Every design here computes VEC input channels x LANE output channels x PIX pixels a cycle, as the overlay does, so a
convolution takes

    groups * ceil(OC / LANE) * rows * ceil(width / PIX) * taps * ceil(C / VEC)        cycles,

and a fully connected layer, used once for each image of a batch, no less than its weights take from external memory.
Unlike the overlay, these designs keep feature maps in external memory. If transfers hide behind the multipliers, a
layer takes the longer of the two (`overlapped`); if nothing hides, their sum (`serial`). The truth lies between; each
design is compared by the rule that its authors describe, and both are shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from fpga_ops.overlay.geometry import ceil_div

Rule: TypeAlias = Literal["overlapped", "serial"]


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


VGG16, ALEXNET, RESNET50 = _vgg16(), _alexnet(), _resnet50()


@dataclass(frozen=True)
class Design:
    """A published design and one of its published times.

    Attributes:
        name, device, network: What ran where.
        vec, lane, pix: Its array.
        round_width: Row widths are processed in multiples of this (a window of outputs).
        clock_mhz, ddr_gbs: Its clock; peak of its external memory.
        element_bytes: Of weights and activations.
        dense_batch: Images that share a fully connected layer's weights.
        convolutions_only: The published time is without fully connected layers.
        rule: How its authors say that transfers and multipliers relate.
        published_ms: For one image.
        parameters_public: False if the array was inferred (`source` says how).
        source: Where the figures are from.
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
    rule: Rule = "overlapped"
    round_width: int = 1
    element_bytes: int = 1
    dense_batch: int = 1
    convolutions_only: bool = False
    parameters_public: bool = True


PIPECNN = "Wang, Xu, Jiang, PipeCNN, FPT 2017 (table I, figure 6)"
DESIGNS = (
    Design("PipeCNN", "Cyclone V SoC (DE1-SoC)", ALEXNET, 8, 8, 1, 122, 3.2, 140,
           f"{PIPECNN}; 8x8 and 122.5 MHz: the authors in their issue 37", round_width=7),
    Design("PipeCNN", "Cyclone V SoC (DE1-SoC)", VGG16, 8, 8, 1, 122, 3.2, 1928,
           f"{PIPECNN}; 8x8 and 122.5 MHz: the authors in their issue 37", round_width=7),
    Design("PipeCNN", "Stratix V (DE5-net)", ALEXNET, 16, 28, 1, 198, 25.6, 15,
           f"{PIPECNN}: VEC_SIZE 16, CU_NUM 28; batch 16 in the repository's README", round_width=7, dense_batch=16),
    Design("PipeCNN", "Stratix V (DE5-net)", VGG16, 16, 28, 1, 198, 25.6, 254,
           f"{PIPECNN}: VEC_SIZE 16, CU_NUM 28", round_width=7),
    Design("PipeCNN", "Arria 10 GX1150 (DE5a-net)", ALEXNET, 8, 160, 1, 218, 34.1, 5,
           f"{PIPECNN}; 8x160 inferred: VEC_SIZE's default of the time, LANE from 683 DSPs at two products each",
           round_width=7, dense_batch=16, parameters_public=False),
    Design("PipeCNN", "Arria 10 GX1150 (DE5a-net)", VGG16, 8, 160, 1, 218, 34.1, 110,
           f"{PIPECNN}; 8x160 inferred, as above", round_width=7, parameters_public=False),
    Design("DPU B4096", "Zynq US+ (ZCU102), one core", RESNET50, 16, 16, 8, 281, 19.2, 11.7,
           "AMD PG338 (8 pixels x 16 x 16), UG1354 (281 MHz, one thread: with the host's part)", rule="serial"),
    Design("Zhang et al.", "Virtex-7 (VC707)", ALEXNET, 7, 64, 1, 100, 12.8, 21.61,
           "Zhang et al., FPGA 2015: Tm 64, Tn 7, fp32, double buffers; convolutions of both halves in turn",
           element_bytes=4, convolutions_only=True),
    Design("Brainwave", "Arria 10", RESNET50, 128, 128, 1, 300, 0.0, 1.79,
           "559 images/s, 44% of peak: 16384 products a cycle, native dimension 128; the array's split is inferred",
           parameters_public=False),
)  # fmt: skip
"""Designs of the project's table of peers whose array is public or can be inferred, and one classic."""


@dataclass(frozen=True)
class Comparison:
    """Model against publication.

    Attributes:
        design: Which.
        overlapped_ms, serial_ms: The model's two bounds.
        model_ms: By the design's rule.
        deviation: model / published - 1.
    """

    design: Design
    overlapped_ms: float
    serial_ms: float
    model_ms: float
    deviation: float


def _layers(design: Design) -> tuple[Layer, ...]:
    if design.name != "Zhang et al.":
        return design.network.layers
    # This design runs every layer in two halves of the output channels, as AlexNet was trained.
    return tuple(
        layer if layer.groups == 2 else replace(layer, outputs=layer.outputs // 2, groups=2)
        for layer in design.network.layers
    )  # fmt: skip


def compare(design: Design) -> Comparison:
    """Apply the model to one design."""
    bytes_per_cycle = design.ddr_gbs * 1e3 / design.clock_mhz if design.ddr_gbs else float("inf")
    overlapped = serial = 0.0
    for layer in _layers(design):
        width = ceil_div(layer.width, design.round_width) * design.round_width
        work: float = (
            layer.groups * ceil_div(layer.outputs, design.lane) * layer.rows * ceil_div(width, design.pix)
            * layer.kernel**2 * ceil_div(layer.inputs, design.vec)
        )  # fmt: skip
        transfer = (layer.weights + layer.moved) * design.element_bytes / bytes_per_cycle
        overlapped += max(work, transfer)
        serial += work + transfer
    for inputs, outputs in () if design.convolutions_only else design.network.dense:
        work = ceil_div(outputs, design.lane) * ceil_div(inputs, design.vec)
        transfer = inputs * outputs * design.element_bytes / bytes_per_cycle / design.dense_batch
        overlapped += max(work, transfer)
        serial += work + transfer
    milliseconds = [cycles / design.clock_mhz / 1e3 for cycles in (overlapped, serial)]
    model = milliseconds[0] if design.rule == "overlapped" else milliseconds[1]
    return Comparison(design, milliseconds[0], milliseconds[1], model, model / design.published_ms - 1)


def table() -> list[Comparison]:
    """All designs."""
    return [compare(design) for design in DESIGNS]


def markdown() -> str:
    """The table of docs/fpga-overlay.md."""
    lines = [
        "| design | device | network | array, MHz | published ms | model ms | deviation | overlapped / serial ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in table():
        d = c.design
        array = f"{d.vec}x{d.lane}x{d.pix}{'' if d.parameters_public else ' (inferred)'}, {d.clock_mhz:g}"
        lines.append(
            f"| {d.name} | {d.device} | {d.network.name} | {array} | {d.published_ms:g} | {c.model_ms:.3g} | "
            f"{c.deviation:+.0%} | {c.overlapped_ms:.3g} / {c.serial_ms:.3g} |"
        )
    return "\n".join(lines)


def plot(path: Path) -> None:
    """Model against published time, both bounds as bars, with the 15% band."""
    from fpga_ops.overlay.plots import pyplot

    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6.5, 5))
    span = [1.0, 4000.0]
    axes.plot(span, span, color="black", lw=1)
    axes.fill_between(span, [0.85 * x for x in span], [1.15 * x for x in span], color="0.85", label="within 15%")
    for index, c in enumerate(table()):
        d = c.design
        axes.plot([d.published_ms] * 2, [c.overlapped_ms, c.serial_ms], color=f"C{index % 10}", lw=2)
        marker = "o" if d.parameters_public else "x"
        label = f"{d.name}, {d.device}, {d.network.name}: {c.deviation:+.0%}"
        axes.plot(d.published_ms, c.model_ms, marker, color=f"C{index % 10}", label=label)
    axes.set(xscale="log", yscale="log", xlabel="published ms", ylabel="model ms")
    axes.set_title("Cycle model and published designs")
    axes.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
