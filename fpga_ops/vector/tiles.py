"""Choice of tiles, by rule."""

from __future__ import annotations

from fpga_ops.vector import winograd
from fpga_ops.vector.isa import InstructionSet
from fpga_ops.vector.shapes import Geometry, Tile

TASKS_PER_WORKER = 4
"""Tasks of a layer per worker: few enough to cost nothing, enough to even out."""


SIZES: dict[int, dict[int, tuple[int, ...]]] = {
    16: {1: (6, 5, 4, 3, 2, 1)},
    32: {4: (6, 5, 4, 3, 2, 1), 2: (14, 12, 10, 8, 7, 6, 4, 2, 1), 1: (14, 8, 7, 4, 2, 1)},
}
"""Register tiles by vector registers (of 8 lanes where there are 16, of 16 lanes where there are 32): pixels by vectors
of 16 channels."""


def register_tiles(geometry: Geometry, isa: InstructionSet) -> list[tuple[int, int]]:
    """(pixels, vectors) that fit in the set's vector registers, best first for this map."""
    sizes = SIZES[isa.registers]
    vectors = [v for v in sizes if geometry.out_channels % (16 * v) == 0 and _panel_fits(geometry, v)]
    most = geometry.width if geometry.pooled_rows else geometry.pixels
    choices = [(pixels, v) for v in vectors for pixels in sizes[v] if pixels <= most]

    def cost(choice: tuple[int, int]) -> float:
        pixels, v = choice
        waste = -(-most // pixels) * pixels / most
        loads = (pixels + v) / (pixels * v)  # per product
        return waste * max(1.0, 0.75 + loads)

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
        traffic = count * weights + (panels // per_task) * geometry.pixels * geometry.in_channels
        return rounds * uneven * grain * (1 + 0.03 * traffic / (weights + geometry.pixels * geometry.in_channels))

    best = sorted(choices, key=cost)
    # bytes of weights; where a tile is widened, that is done once for all panels of its task
    near = 300000 if isa.saturates or isa.flushes else 40000
    panel = geometry.window * 16 * vectors * geometry.form(isa).weight_bytes
    return [(strip, per_task, per_task > 1 and panel * per_task <= near) for strip, per_task, _, _ in best]


def _even(geometry: Geometry, strip: int, pixels: int) -> int:
    """Make a strip hold whole tiles, and whole rows where tiles lie in rows."""
    if strip >= geometry.pixels:
        return geometry.pixels
    if geometry.width % pixels == 0:
        return -(-strip // geometry.width) * geometry.width
    return -(-strip // pixels) * pixels


def winograd_tiles(geometry: Geometry, isa: InstructionSet) -> list[Tile]:
    """Tiles for Winograd's form, best first: as many tiles of 4x4 outputs as fill the registers.

    Weights that come from far are multiplied with all tiles of a task at once, so that they are read once.
    """
    columns, rows = winograd.tiles(geometry.width), winograd.tiles(geometry.height)
    sizes = winograd.REGISTER_TILES[isa.registers]
    vectors = min(sizes) if geometry.in_channels > winograd.STREAMED else max(sizes)
    most = sizes[vectors]
    choices = []
    for strip in range(1, rows + 1):
        if strip > 1 and strip * columns > 2 * most:
            break
        count = strip * columns
        pixels = min(range(1, min(most, count) + 1), key=lambda n: -(-count // n) * (n + 2))  # 2 for loading weights
        tile = Tile(pixels, vectors, strip, 1, False, True)
        last = (-(-rows // strip) * strip - rows) / rows  # rows done twice
        choices.append((last + abs(strip * columns - most) / 100, tile))
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
            return winograd_tiles(geometry, self.isa)[0]
        pixels, vectors = register_tiles(geometry, self.isa)[0]
        strip, panels, outer = cuts(geometry, self.isa, vectors, pixels, self.workers)[0]
        return Tile(pixels, vectors, strip, panels, outer)
