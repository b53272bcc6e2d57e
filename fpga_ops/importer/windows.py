"""Where the windows of a convolution or pool lie on a map."""

from __future__ import annotations

from fpga_ops.importer.graph import Node
from fpga_ops.importer.values import UnsupportedError


def window_of(
    node: Node, kernel: tuple[int, int], size: tuple[int, int], *, ceil: bool = True
) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Strides and pads of a convolution or pool over a map; `auto_pad` and, unless told, `ceil_mode` worked out."""
    strides = node.integers("strides", (1, 1))
    pads = list(node.integers("pads", (0, 0, 0, 0)))
    if len(strides) != 2 or min(strides) < 1 or len(pads) != 4 or min(pads) < 0:
        raise UnsupportedError(f"strides {strides} and pads {tuple(pads)} are not those of a two-dimensional window")
    auto = node.text("auto_pad", "NOTSET")
    if auto != "NOTSET" and any(pads):
        raise UnsupportedError(f"auto_pad {auto} and pads {tuple(pads)} are given; only one of them may be")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for axis in range(2):
            total = (-(-size[axis] // strides[axis]) - 1) * strides[axis] + kernel[axis] - size[axis]
            if total < 0 and node.operator != "Conv":  # onnxruntime's pools disagree with each other and with ONNX
                raise UnsupportedError(
                    f"auto_pad {auto} with strides {strides} beyond its window has no agreed meaning"
                )
            total = max(0, total)
            pads[axis] = total // 2 if auto == "SAME_UPPER" else total - total // 2
            pads[axis + 2] = total - pads[axis]
    elif auto == "VALID":
        pads = [0, 0, 0, 0]
    elif auto != "NOTSET":
        raise UnsupportedError(f"auto_pad {auto} is not known")
    if ceil and node.integer("ceil_mode", 0):
        for axis in range(2):
            span = size[axis] + pads[axis] + pads[axis + 2] - kernel[axis]
            count = -(-span // strides[axis]) + 1
            if (count - 1) * strides[axis] >= size[axis] + pads[axis]:  # a window all in the padding is not taken
                count -= 1
            pads[axis + 2] += max(0, (count - 1) * strides[axis] - span)
    return (strides[0], strides[1]), tuple(pads)


def output_size(
    size: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, ...]
) -> tuple[int, int]:
    """Height and width of what windows of size `kernel` make of a map of size `size`."""
    height, width = (
        (size[axis] + pads[axis] + pads[axis + 2] - kernel[axis]) // strides[axis] + 1 for axis in range(2)
    )
    if height < 1 or width < 1:
        raise UnsupportedError(f"a {kernel[0]}x{kernel[1]} window does not fit a {size[0]}x{size[1]} map")
    return height, width
