"""The OpenCL program of a plan: the kernel files, one copy of the convolution per shape, and the list of cases."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from fpga_ops.ir.classifier_head import LEAST, LN2_HIGH, LN2_LOW, LOG2_E, TAYLOR, Head
from fpga_ops.vector.isa import InstructionSet, by_name
from fpga_ops.vector.plan import FIELDS, RECORD, Layer, Plan

KERNELS = Path(str(files("fpga_ops"))) / "kernels" / "vector"


CALL_HEADER = 2
"""Longs in front of the rows of a call's array (kernels/vector/net.cl)."""
SYNC_STEP = 16
"""Ints between two counters: a cache line."""


def call_row(plan: Plan) -> int:
    """Longs per image in a call's array: the addresses of inputs, outputs and scores, and a place for a status."""
    return len(plan.network.inputs) + len(plan.network.outputs) + 2


def sync_ints(plan: Plan) -> int:
    """Ints of the one-launch kernel's counters."""
    return (2 * len(plan.layers) + 1) * SYNC_STEP


@cache
def kernel_file(name: str) -> str:
    """Text of one kernel file."""
    return (KERNELS / name).read_text()


def prelude(entry: InstructionSet, *, persistent: bool, gives_way: bool = False) -> str:
    """What stands in front of every program: macros, the instruction set's primitives, the endings."""
    macros = {"PERSISTENT": int(persistent), "YIELD": int(gives_way)}
    table = "" if entry.portable else _numbers_of_bits()
    return _define(macros) + table + "".join(map(kernel_file, entry.files))


@cache
def _numbers_of_bits() -> str:
    """A table: which of a byte's bits are set, in order, as bytes of a ulong (isa/x86.cl)."""
    rows = (bytes(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))
    words = ", ".join(f"{int.from_bytes(row, 'little'):#x}" for row in rows)
    return f"__constant ulong numbers_of_bits[256] = {{{words}}};\n"


def _define(macros: dict[str, int]) -> str:
    return "".join(f"#define {name} {value}\n" for name, value in macros.items())


def _undefine(macros: dict[str, int]) -> str:
    return "".join(f"#undef {name}\n" for name in macros)


def generate(
    plan: Plan, *, persistent: bool, intel: bool, in_place: bool, gives_way: bool = False, profile: bool = False,
    head: Head | None = None,
) -> str:  # fmt: skip
    """Source of the plan's program.

    Args:
        plan: The network's plan; only its shapes and geometry matter, not its weights.
        persistent: With the kernel that runs the whole network in one launch.
        intel: For Intel's compiler, which takes a vectorisation hint.
        in_place: Inputs and outputs come as addresses in one array, not as arguments.
        gives_way: A worker that waits long yields its core.
        profile: Record when each task begins and ends.
        head: What the one-launch kernel does with an output in place, where scores are asked for.
    """
    entry = by_name(plan.isa)
    text = _define({"INTEL": int(intel), "PROFILE": int(profile)})
    text += prelude(entry, persistent=persistent, gives_way=gives_way) + kernel_file("steps.cl")
    for identity, shape in enumerate(plan.shapes):
        macros = shape.defines(identity, entry)
        files = kernel_file("winograd.cl" if shape.tile.winograd else "conv.cl")
        files += kernel_file("conv_pool.cl") if shape.pool else ""
        text += _define(macros) + files + _undefine(macros)
    arguments = [f"G const float* restrict in{i}" for i in range(len(plan.network.inputs))]
    arguments += [f"G uchar* restrict out{i}" for i in range(len(plan.network.outputs))]
    values = [f"in{i}" for i in range(len(plan.network.inputs))]
    values += [f"out{i}" for i in range(len(plan.network.outputs))]
    text += _define({f"L_{name}": index for index, name in enumerate(FIELDS)})
    macros = {"FIELDS": RECORD, "LAYERS": len(plan.layers), "IN_PLACE": int(in_place)}
    text += _define(macros | {"HEADER": CALL_HEADER, "ROW": call_row(plan)})
    given, passed = ", ".join(arguments), ", ".join(values)
    text += f"#define ARRAYS , {given}\n"
    if in_place:
        text += "#define ARGUMENTS , G long* addresses\n#define VALUES , addresses\n"
    else:
        text += f"#define ARGUMENTS , {given}, G int* not_finite\n#define VALUES , {passed}, not_finite\n"
    text += _head(plan, head)
    text += f"#define TRACE {', G ulong* trace' * profile}\n#define TRACED {', trace' * profile}\n"
    unpack = "".join(
        f"{argument} = ({argument.rsplit(' ', 1)[0].removesuffix(' restrict')})(row)[{number}]; "
        for number, argument in enumerate(arguments)
    )
    unpack += f"G int* not_finite = (G int*)((row) + {len(arguments) + 1});"
    text += f"#define UNPACK(row) {unpack * in_place}\n"
    direct = "".join(
        f"if (layer[L_DIRECT] == {number + 1}) output = out{number}{_of_image('layer[L_OUTPUT_STEP]', in_place)}; "
        for number in plan.direct.values()
    )
    seen: set[int] = set()
    cases = ""
    for layer in plan.layers:
        if layer.case not in seen:
            seen.add(layer.case)
            cases += f" \\\n  case {layer.case}: {_case(plan, layer, in_place)} break;"
    return text + f"#define REDIRECT {direct}\n#define CASES {cases}\n\n" + kernel_file("net.cl")


def _head(plan: Plan, head: Head | None) -> str:
    """The code of a head and `FINISH(call, row)`, which runs it if the row asks for scores."""
    if head is None:
        return "#define FINISH(call, row)\n"
    source = plan.network.outputs.index(head.source)
    place = len(plan.network.inputs) + len(plan.network.outputs)
    inputs = plan.network.tensors[head.source].size
    macros = {
        "HEAD_INPUTS": inputs, "HEAD_OUTPUTS": inputs if head.weights is None else len(head.weights),
        "HEAD_GEMM": int(head.weights is not None), "HEAD_SOFTMAX": int(head.softmax),
        "HEAD_POWERS": int(head.powers is not None),
    }  # fmt: skip
    text = _define(macros)
    text += f"#define EXPONENTIAL_TAYLOR {', '.join(map(repr, TAYLOR))}\n"
    text += f"#define EXPONENTIAL_LOG2_E {LOG2_E!r}\n#define EXPONENTIAL_LN2_HIGH {LN2_HIGH!r}\n"
    text += f"#define EXPONENTIAL_LN2_LOW {LN2_LOW!r}\n#define EXPONENTIAL_LEAST {LEAST!r}\n"
    scores = f"(row)[{place}]"
    text += f"#define FINISH(call, row) if ({scores}) head((G const uchar*)(row)[{len(plan.network.inputs) + source}], "
    text += f"(G const double*)(call)[1], (G float*){scores});\n"
    return text + kernel_file("head.cl")


def _of_image(size: object, in_place: bool) -> str:
    """What is added to an argument to get to an image's part of it; in place each image has its own."""
    return "" if in_place else f" + image * {size}"


def _case(plan: Plan, layer: Layer, in_place: bool) -> str:
    """The call that runs one task."""
    scratch = f"arena + layer[L_SCRATCH] + worker * {layer.scratch_step}L"
    if layer.shape is not None and layer.shape.tile.winograd:
        return (
            f"winograd_{layer.case}(source, weights, parameters, output, other, rule, "
            f"min(strip * step, rows - step), group, again, ahead, {scratch});"
        )
    if layer.kind == "conv":
        return (
            f"conv_{layer.case}(source, weights, parameters, output, other, rule, strip * step, "
            f"min((strip + 1) * step, rows), group * panels, (group + 1) * panels, ahead, stop, {scratch});"
        )
    if layer.kind == "conv_pool" and layer.pool is not None and layer.shape is not None:
        geometry = layer.shape.geometry
        pitch = plan.layouts[layer.writes].pitch * geometry.out_channels
        ring = -(-layer.pool.kernel[0] * geometry.width * geometry.out_channels // 64) * 64
        return (
            f"conv_pool_{layer.case}(source, weights, parameters, output, {pitch}L, (G uchar*)other + part * {ring}L, "
            f"rule, panels, from, to, {scratch});"
        )
    if layer.kind == "quantise":
        tensor, place = plan.network.tensors[layer.writes], plan.layouts[layer.writes]
        return (
            f"quantise_input(in{layer.argument}{_of_image(f'{tensor.size}L', in_place)}, output, {tensor.channels}, "
            f"{place.channels}, {tensor.height}, {tensor.width}, {place.pitch * place.channels}L, "
            "rule, not_finite, from, to);"
        )
    read = plan.layouts[layer.reads[0]]
    if layer.kind == "emit":
        tensor = plan.network.tensors[layer.reads[0]]
        return (
            f"emit(source, out{layer.argument}{_of_image(f'{tensor.size}L', in_place)}, {tensor.channels}, "
            f"{read.channels}, {read.height}, {read.width}, {read.pitch * read.channels}L, from, to);"
        )
    written = plan.layouts[layer.writes]
    if layer.kind == "max_pool":
        step = layer.step
        kernel, strides, pads = step.kernel, step.strides, step.pads  # type: ignore[union-attr]
        return (
            f"max_pool(source, output, {read.channels}, {read.height}, {read.width}, {read.pitch * read.channels}L, "
            f"{written.width}, {written.pitch * written.channels}L, {kernel[0]}, {kernel[1]}, "
            f"{strides[0]}, {strides[1]}, {pads[0]}, {pads[1]}, from, to);"
        )
    if layer.kind == "average_pool":
        return (
            f"average_pool(source, parameters, output, rule, {read.channels}, {read.height}, {read.width}, "
            f"{read.pitch * read.channels}L, from, to);"
        )
    second = plan.layouts[layer.reads[1]]
    return (
        f"add_tensors(source, other, output, rule, {written.width * written.channels}, {read.pitch * read.channels}L, "
        f"{second.pitch * second.channels}L, {written.pitch * written.channels}L, from, to);"
    )
