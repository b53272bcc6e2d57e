"""What training needs of labelled events, whatever they are: jets or pixel maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from retrain.data.images import ImageSettings, JetImager
from retrain.data.jet_table import LABELS, Jets, arrays_digest


class Examples(Protocol):
    """Labelled events that a network can look at, at several sizes."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each event, int64[N]."""

    def __len__(self) -> int: ...

    def take(self, index: NDArray[np.int64] | slice) -> Self:
        """The events of `index`, int64[n] or a slice, in its order."""

    def inputs(self, size: int) -> NDArray[np.float32]:
        """Network inputs float32[N, 1, height, width]; `size` is the height."""

    def digest(self) -> str:
        """The hexadecimal SHA-256 of the events, in their order: whether these are the same."""

    def require_all_classes(self) -> Self:
        """These events, or DataError when they cannot train or judge a network."""


@dataclass(frozen=True)
class JetExamples:
    """Jets as images; of `image` the size is not used."""

    jets: Jets
    image: ImageSettings

    def __len__(self) -> int:
        return len(self.jets)

    @property
    def classes(self) -> tuple[str, ...]:
        """QCD and top."""
        return LABELS

    @property
    def labels(self) -> NDArray[np.int64]:
        """0 for QCD and 1 for top jets, int64[N]."""
        return self.jets.labels

    def take(self, index: NDArray[np.int64] | slice) -> JetExamples:
        """The jets of `index`, int64[n] or a slice, in its order."""
        return JetExamples(self.jets.take(index), self.image)

    def inputs(self, size: int) -> NDArray[np.float32]:
        """Images as the network sees them: float32[N, 1, size, size]."""
        return _imager(_sized(self.image, size))(self.jets.constituents)

    def digest(self) -> str:
        """The hexadecimal SHA-256 of constituents and labels."""
        return arrays_digest(self.jets.constituents, self.jets.labels)

    def require_all_classes(self) -> JetExamples:
        """These jets, or DataError when they are of one class only."""
        self.jets.require_both_classes()
        return self


def _sized(image: ImageSettings, size: int) -> ImageSettings:
    """The image of that many network pixels: `image` itself where it has them, else one made at that size."""
    return image if image.size // image.reduce == size else replace(image, size=size, reduce=1)


@cache
def _imager(settings: ImageSettings) -> JetImager:
    return JetImager(settings, transformed=True)


def as_examples(data: Jets | Examples, image: ImageSettings) -> Examples:
    """Jets as images; other examples as they are."""
    return JetExamples(data, image) if isinstance(data, Jets) else data
