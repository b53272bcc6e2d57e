"""Search over geometries for a board: what is fastest, what is quickest, what is smallest.

Every combination that is a legal geometry is planned, modelled and sized; those that fit form the Pareto front over
inferences a second, latency and the fullest resource.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from fpga_ops.errors import DeviceError, ModelError
from fpga_ops.ir.network import IntegerNetwork
from fpga_ops.overlay.boards import Board
from fpga_ops.overlay.errors import DoesNotFitError
from fpga_ops.overlay.geometry import Arithmetic, Geometry
from fpga_ops.overlay.model.cycles import Prediction, predict
from fpga_ops.overlay.model.resources import FAMILIES, Resources, estimate
from fpga_ops.overlay.plan import plan


@dataclass(frozen=True)
class Candidate:
    """One geometry, modelled and sized."""

    geometry: Geometry
    images: int
    prediction: Prediction
    resources: Resources
    fullest: float

    def dominates(self, other: Candidate) -> bool:
        """Whether this is at least as good in every respect and better in one."""
        mine, theirs = self._merits(), other._merits()
        return all(a >= b for a, b in zip(mine, theirs, strict=True)) and mine != theirs

    def _merits(self) -> tuple[float, float, float]:
        return self.prediction.inferences_per_s, -self.prediction.latency_ms, -self.fullest


@dataclass(frozen=True)
class Space:
    """What to search; empty tuples stand for the board's own value."""

    vec: tuple[int, ...] = (8, 16, 32, 64)
    lane: tuple[int, ...] = (16, 32, 48, 64, 80, 96, 128, 192)
    pix: tuple[int, ...] = (1, 3, 5, 7, 9, 11, 13, 15)
    images: tuple[int, ...] = (1, 2, 4)
    weight_tiles: tuple[int, ...] = ()
    weight_depth: tuple[int, ...] = (256, 4096)
    clocks_mhz: tuple[float, ...] = ()
    arithmetic: tuple[Arithmetic, ...] = ("int8", "int8-pairs")


def geometries(board: Board, space: Space) -> Iterator[Geometry]:
    """All legal geometries of a space but for `weight_depth`.

    The weight port is up to 2.4 times as wide as external memory is fast: what was fetched ahead may then be spent
    faster than it came.
    """
    for vec, lane, pix, tiles, arithmetic in product(
        space.vec, space.lane, space.pix, space.weight_tiles or (board.geometry.weight_tiles,), space.arithmetic
    ):
        if arithmetic == "int8-pairs" and FAMILIES[board.family].pairs == FAMILIES[board.family].products:
            continue  # the blocks make as many products by themselves
        port = 64
        while port * 2 <= min(512.0, board.bytes_per_cycle(board.clock_mhz) * 2.4) and lane * vec % (port * 2) == 0:
            port *= 2
        try:
            yield replace(
                board.geometry, vec=vec, lane=lane, pix=pix, wb=port, weight_tiles=tiles, arithmetic=arithmetic,
                map_words=None,
            )  # fmt: skip
        except DeviceError:
            continue


def explore(network: IntegerNetwork, board: Board, space: Space | None = None) -> list[Candidate]:
    """Every candidate that fits, fastest first."""
    space = space or Space()
    found: list[Candidate] = []
    ceiling = 12 * board.supplies["dsp"].total  # products a cycle beyond which nothing here fits
    for geometry in geometries(board, space):
        if not ceiling / 60 <= geometry.macs <= ceiling:
            continue
        for images in space.images:
            try:
                planned = plan(network, geometry, images)
            except (DoesNotFitError, ModelError):
                continue
            for depth in space.weight_depth or (board.geometry.weight_depth,):
                deep = replace(geometry, weight_depth=depth)
                resources = estimate(deep, planned.map_words, board)
                if not resources.fits(board):
                    continue
                fullest = max(resources.shares(board).values())
                for clock in space.clocks_mhz or (board.clock_mhz,):
                    prediction = predict(replace(planned, geometry=deep), board, clock)
                    found.append(Candidate(deep, images, prediction, resources, fullest))
    return sorted(found, key=lambda c: -c.prediction.inferences_per_s)


def pareto(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that no other dominates, fastest first."""
    every = list(candidates)
    return [c for c in every if not any(other.dominates(c) for other in every)]
