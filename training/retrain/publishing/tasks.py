"""What there is to be learnt: tagging top jets, or telling neutrino interactions apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrain.data.examples import Examples, as_examples
from retrain.data.files import read_all, read_all_maps
from retrain.data.images import ImageSettings
from retrain.data.jet_table import shuffled
from retrain.network.settings import DEFAULT_STAGES, Stage


@dataclass(frozen=True)
class Task:
    """How its events are read (shuffled with a seed, all classes required), and in which stages it is trained."""

    read: Callable[[Sequence[Path], int], Examples]
    stages: tuple[Stage, ...]


def _jets(paths: Sequence[Path], seed: int) -> Examples:
    return as_examples(shuffled(read_all(paths), seed).require_both_classes(), ImageSettings())


def _maps(paths: Sequence[Path], seed: int) -> Examples:
    return shuffled(read_all_maps(paths), seed).require_all_classes()


TASKS = {
    "jets": Task(_jets, DEFAULT_STAGES),
    "neutrinos": Task(_maps, (Stage(50, 160_000, 64, 1e-3),)),
}
