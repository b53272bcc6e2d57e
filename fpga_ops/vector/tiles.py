"""Choice of tiles, by rule."""

from __future__ import annotations

from fpga_ops.vector import winograd
from fpga_ops.vector.isa import InstructionSet
from fpga_ops.vector.layout import VECTOR
from fpga_ops.vector.shapes import Geometry, Tile

TASKS_PER_WORKER = 4
"""Tasks of a layer per worker: few enough to cost nothing, enough to even out."""


LISTING = 0.4
"""Of a panel's products: what it takes to find which steps can be summed in 16 bits, once for all panels of a task."""

NEAR = 300000
"""Bytes that stay in the second-level cache while a task goes through them again and again."""
NEAREST = 16384
"""Bytes that stay in the first-level cache while as much else is read."""
READING = 0.02
"""Of a layer by Winograd's form: what another reading of weights that come from far costs."""

SIZES: dict[int, dict[int, tuple[int, ...]]] = {
    16: {1: (6, 5, 4, 3, 2, 1)},
    32: {4: (6, 5, 4, 3, 2, 1), 2: (14, 12, 10, 8, 7, 6, 4, 2, 1), 1: (14, 8, 7, 4, 2, 1)},
}
"""Register tiles by vector registers (of 8 lanes where there are 16, of 16 lanes where there are 32): pixels by vectors
of 16 channels."""
CHECKED_SIZES: dict[int, dict[int, tuple[int, ...]]] = {**SIZES, 16: {1: (3, 2, 1)}}
"""The same where pixels decide which steps are summed in 16 bits: two steps' weights need registers too."""
ENDING = 0.25
"""Share that it costs when another vector ends in each step of the next tile."""
ALIKE = 0.06
"""Share that each further pixel of a tile costs there: it takes one of them to make a step a slower one for all."""


def register_tiles(geometry: Geometry, isa: InstructionSet) -> list[tuple[int, int]]:
    """(pixels, vectors) that fit in the set's vector registers, best first for this map."""
    checked = geometry.form(isa).checked
    sizes = (CHECKED_SIZES if checked else SIZES)[isa.registers]
    vectors = [v for v in sizes if geometry.out_channels % (16 * v) == 0 and _panel_fits(geometry, v)]
    most = geometry.width if geometry.pooled_rows else geometry.pixels
    choices = [(pixels, v) for v in vectors for pixels in sizes[v] if pixels <= most]
    deferred, steps = geometry.defers(isa), geometry.window // isa.step_bytes

    def cost(choice: tuple[int, int]) -> float:
        pixels, v = choice
        waste = -(-most // pixels) * pixels / most
        loads = (pixels + v) / (pixels * v)  # per product
        more = -(-pixels * v // steps) - 1 if deferred else 0
        return waste * max(1.0, 0.75 + loads) * (1 + ALIKE * pixels * checked + ENDING * more)

    return sorted(choices, key=lambda c: (cost(c), -c[1]))


def _panel_fits(geometry: Geometry, vectors: int) -> bool:
    return not geometry.group_in or (geometry.group_out % (16 * vectors) == 0)


def cuts(
    geometry: Geometry, isa: InstructionSet, vectors: int, pixels: int, workers: int
) -> list[tuple[int, int, bool]]:
    """(strip, panels per task, pixels outer), best first by rule."""
    panels = geometry.out_channels // (16 * vectors)
    wanted = TASKS_PER_WORKER * workers
    if geometry.pooled_rows:
        return [(-(-geometry.pooled_rows // part), panels, True) for part in (2 * workers, workers, wanted)]
    weights = geometry.window * geometry.out_channels
    form = geometry.form(isa)
    choices = []
    for strips in (1, 2, 4, 8, 16, 32):
        strip = -(-geometry.pixels // strips)
        if strips > 1 and strip < 4 * pixels:
            break
        strip = _even(geometry, strip, pixels)
        count = -(-geometry.pixels // strip)
        for per_task in (d for d in range(1, panels + 1) if panels % d == 0):
            tasks = count * (panels // per_task)
            choices.append((strip, per_task, tasks, count))

    def cost(choice: tuple[int, int, int, int]) -> float:
        strip, per_task, tasks, count = choice
        rounds = -(-tasks // workers) * workers / tasks  # idle workers in the last round
        last = geometry.pixels - (count - 1) * strip  # a short last strip is a short task
        uneven = 1 + 0.5 * (1 - last / strip) / max(1, tasks / workers)
        grain = 1 + 0.02 * abs(tasks - wanted) / wanted + (0.1 if tasks < wanted else 0.0) * (wanted - tasks) / wanted
        # each strip reads the task's weights, each group of panels reads the strip's source
        source = geometry.pixels * geometry.in_channels
        traffic = (count * weights + (panels // per_task) * source) / (weights + source)
        listing = 1 + LISTING / (vectors * per_task) if form.checked else 1.0
        return rounds * uneven * grain * listing * (1 + 0.03 * traffic)

    best = sorted(choices, key=lambda choice: (choice[2] < 2 * workers, cost(choice)))
    # where a tile is widened or its steps are listed, that is done once for all panels of its task
    near = NEAR if isa.saturates or isa.flushes else 40000
    panel = geometry.window * 16 * vectors * form.weight_bytes
    return [(strip, per_task, per_task > 1 and panel * per_task <= near) for strip, per_task, _, _ in best]


def _even(geometry: Geometry, strip: int, pixels: int) -> int:
    """Make a strip hold whole tiles, and whole rows where tiles lie in rows."""
    if strip >= geometry.pixels:
        return geometry.pixels
    if geometry.width % pixels == 0:
        return -(-strip // geometry.width) * geometry.width
    return -(-strip // pixels) * pixels


def winograd_tiles(geometry: Geometry, isa: InstructionSet, workers: int) -> list[Tile]:
    """Tiles for Winograd's form, best first: as many tiles of 4x4 outputs as fill the registers.

    Weights that come from far are read once for all tiles of a task: with as few vectors as let all tiles be multiplied
    at once, or one half after the other while the weights are in the first-level cache; and with more tiles as long as
    all workers have tasks and what is kept of one fits the second-level cache.
    """
    columns, rows = winograd.tiles(geometry.width), winograd.tiles(geometry.height)
    sizes = winograd.REGISTER_TILES[isa.registers]
    far = geometry.in_channels > winograd.STREAMED
    at_once = {v: sizes[v] * (1 + (2 * v * VECTOR * geometry.in_channels <= NEAREST)) for v in sizes}
    choices = []
    for strip in range(1, rows + 1):
        count, readings = strip * columns, -(-rows // strip)
        vectors = max((v for v in sizes if not far or at_once[v] >= count), default=min(sizes))
        most = sizes[vectors]
        tasks = readings * geometry.out_channels // winograd.PANEL
        near = winograd.scratch_bytes(count, geometry.in_channels) <= NEAR and tasks >= 2 * workers
        if strip > 1 and count > (2 * most if not far or near else at_once[vectors]):
            break
        pixels = min(range(1, min(most, count) + 1), key=lambda n: -(-count // n) * (n + 2))  # 2 for loading weights
        transforms = far and isa.transforms and readings == 1 and vectors == 2 and 2 * pixels == count
        tile = Tile(pixels, vectors, strip, 1, False, True, transforms)
        last = (readings * strip - rows) / rows  # rows done twice
        choices.append((last + abs(count - most) / 100 + READING * readings * far, tile))
    return [tile for _, tile in sorted(choices, key=lambda pair: pair[0])]


class TileTable:
    """Tiles by rule for one instruction set.

    Args:
        workers: Concurrent work-groups.
        isa: The instruction set.
        persistent: For the one-launch kernel, which Winograd's form needs.
        small: Small register tiles, for compilers that are slow on large ones and devices whose speed does not matter.
    """

    def __init__(self, workers: int, isa: InstructionSet, *, persistent: bool = False, small: bool = False) -> None:
        self.workers = workers
        self.isa = isa
        self.small = small
        self.persistent = persistent

    def choose(self, geometry: Geometry) -> Tile:
        """The tile for a shape."""
        if self.small:
            strip, panels, outer = cuts(geometry, self.isa, 1, 1, self.workers)[0]
            return Tile(1, 1, strip, panels, outer)
        if geometry.winograd and self.persistent and self.isa.pairs:
            return winograd_tiles(geometry, self.isa, self.workers)[0]
        pixels, vectors = register_tiles(geometry, self.isa)[0]
        strip, panels, outer = cuts(geometry, self.isa, vectors, pixels, self.workers)[0]
        return Tile(pixels, vectors, strip, panels, outer)
