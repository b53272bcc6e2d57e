"""Choice of tiles: from a table made by the tuner, or by rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

from fpga_ops.runtime.opencl import OpenCLDevice, write_atomically
from fpga_ops.vector import winograd
from fpga_ops.vector.shapes import Geometry, Tile

TASKS_PER_WORKER = 4
"""Tasks of a layer per worker: few enough to cost nothing, enough to even out."""


def register_tiles(geometry: Geometry) -> list[tuple[int, int]]:
    """(pixels, vectors) that fit in 32 vector registers, best first for this map."""
    vectors = [v for v in (4, 2, 1) if geometry.out_channels % (16 * v) == 0 and _panel_fits(geometry, v)]
    most = geometry.width if geometry.pooled_rows else geometry.pixels
    choices = [
        (pixels, v)
        for v in vectors
        for pixels in ({4: (6, 5, 4, 3, 2, 1), 2: (14, 12, 10, 8, 7, 6, 4, 2, 1), 1: (14, 8, 7, 4, 2, 1)}[v])
        if pixels <= most
    ]

    def cost(choice: tuple[int, int]) -> float:
        pixels, v = choice
        waste = -(-most // pixels) * pixels / most
        loads = (pixels + v) / (pixels * v)  # per product
        return waste * max(1.0, 0.75 + loads)

    return sorted(choices, key=lambda c: (cost(c), -c[1]))


def _panel_fits(geometry: Geometry, vectors: int) -> bool:
    return not geometry.group_in or (geometry.group_out % (16 * vectors) == 0)


def cuts(geometry: Geometry, vectors: int, pixels: int, workers: int) -> list[tuple[int, int, bool]]:
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
    return [
        (strip, per_task, per_task > 1 and geometry.window * 16 * vectors * per_task <= 40000)
        for strip, per_task, _, _ in best
    ]


def _even(geometry: Geometry, strip: int, pixels: int) -> int:
    """Make a strip hold whole tiles, and whole rows where tiles lie in rows."""
    if strip >= geometry.pixels:
        return geometry.pixels
    if geometry.width % pixels == 0:
        return -(-strip // geometry.width) * geometry.width
    return -(-strip // pixels) * pixels


def by_rule(geometry: Geometry, workers: int, *, allow_winograd: bool = False) -> Tile:
    """A sound tile without measuring."""
    if geometry.winograd and allow_winograd:
        return winograd_tiles(geometry)[0]
    pixels, vectors = register_tiles(geometry)[0]
    strip, panels, outer = cuts(geometry, vectors, pixels, workers)[0]
    return Tile(pixels, vectors, strip, panels, outer)


def winograd_tiles(geometry: Geometry) -> list[Tile]:
    """Tiles for Winograd's form, best first: as many tiles of 4x4 outputs as fill the registers.

    Weights that come from far are multiplied with all tiles of a task at once, so that they are read once.
    """
    columns, rows = winograd.tiles(geometry.width), winograd.tiles(geometry.height)
    vectors = 1 if geometry.in_channels > winograd.STREAMED else 2
    most = winograd.REGISTER_TILES[vectors]
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


def valid(tile: Tile, geometry: Geometry) -> bool:
    """Whether a tile (from a file) can be used for a shape."""
    if tile.winograd:
        rows, columns = winograd.tiles(geometry.height), winograd.tiles(geometry.width)
        return (
            geometry.winograd
            and tile.vectors in winograd.REGISTER_TILES
            and 1 <= tile.strip <= rows
            and 1 <= tile.pixels <= min(winograd.REGISTER_TILES[tile.vectors], tile.strip * columns)
        )
    if tile.vectors not in (1, 2, 4) or tile.pixels < 1 or tile.strip < 1 or tile.panels < 1:
        return False
    if geometry.out_channels % (16 * tile.vectors) or not _panel_fits(geometry, tile.vectors):
        return False
    panels = geometry.out_channels // (16 * tile.vectors)
    if geometry.pooled_rows:
        return tile.pixels <= geometry.width and tile.panels == panels
    last = geometry.pixels - (-(-geometry.pixels // tile.strip) - 1) * tile.strip
    # the last tile of a strip may reach back into the strip before, never before the map
    return panels % tile.panels == 0 and tile.pixels <= min(tile.strip, geometry.pixels) and last >= 1


class TileTable:
    """Tiles by geometry: those tuned on this device, else by rule.

    Args:
        workers: Concurrent work-groups.
        fast: The dot instruction is used.
        tuned: What the tuner found.
        allow_winograd: Winograd's form may be used.
        small: Small register tiles, for compilers that are slow on large ones and devices whose speed does not matter.
    """

    def __init__(
        self,
        workers: int,
        fast: bool,
        tuned: Mapping[str, Tile] | None = None,
        *,
        allow_winograd: bool = False,
        small: bool = False,
    ) -> None:
        self.workers = workers
        self.small = small
        self.allow_winograd = allow_winograd and fast
        self.tuned = dict(tuned or {})

    def choose(self, geometry: Geometry) -> Tile:
        """The tile for a shape."""
        tile = self.tuned.get(geometry.key)
        if tile is not None and valid(tile, geometry) and (self.allow_winograd or not tile.winograd):
            return tile
        if self.small:
            strip, panels, outer = cuts(geometry, 1, 1, self.workers)[0]
            return Tile(1, 1, strip, panels, outer)
        return by_rule(geometry, self.workers, allow_winograd=self.allow_winograd)


def parse(content: str) -> dict[str, Tile]:
    """A tile table from JSON; entries that are not tiles are left out."""
    try:
        entries = json.loads(content)
    except ValueError:
        return {}
    result = {}
    for key, value in entries.items() if isinstance(entries, dict) else ():
        if isinstance(value, list) and len(value) == 6 and all(isinstance(v, int) for v in value):
            result[key] = Tile(value[0], value[1], value[2], value[3], bool(value[4]), bool(value[5]))
    return result


def table_path(device: OpenCLDevice, workers: int, fast: bool, cache_dir: Path) -> Path:
    """Where the tuner keeps this device's tiles."""
    return cache_dir / f"tiles-{device.key}-{workers}-{'fast' if fast else 'portable'}.json"


def load(device: OpenCLDevice, workers: int, fast: bool, cache_dir: Path, *, allow_winograd: bool = False) -> TileTable:
    """The table for a device."""
    try:
        tuned = parse(table_path(device, workers, fast, cache_dir).read_text())
    except OSError:
        tuned = {}
    return TileTable(workers, fast, tuned, allow_winograd=allow_winograd)


def dump(tiles: Mapping[str, Tile]) -> str:
    """JSON of a table, one shape a line."""
    lines = (
        f"  {json.dumps(key)}: {json.dumps([int(v) for v in astuple(tile)])}" for key, tile in sorted(tiles.items())
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def save(tiles: Mapping[str, Tile], path: Path) -> None:
    """Write a table."""
    write_atomically(path, dump(tiles).encode())
