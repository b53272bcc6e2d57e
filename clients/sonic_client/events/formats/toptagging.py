"""The top-tagging reference set and its like: one jet a row, columns E_0, PX_0, PY_0, PZ_0, E_1, ..., zeros behind."""

from __future__ import annotations

import re

from sonic_client.events.formats.base import Format, Names
from sonic_client.events.readings import Flat

_FIRST = ("E_0", "PX_0", "PY_0", "PZ_0")


def _stem(names: Names, first: str) -> str | None:
    """`px_` for a column `px_0`, whatever its case."""
    return next((name.removesuffix("0") for name in names if name.upper() == first), None)


def _table(names: Names) -> tuple[tuple[str, ...], ...]:
    stems = [stem for stem in (_stem(names, first) for first in _FIRST) if stem is not None]
    if len(stems) < len(_FIRST):
        return ()
    numbers = [{name.removeprefix(stem) for name in names if re.fullmatch(rf"{stem}\d+", name)} for stem in stems]
    if any(one != numbers[0] for one in numbers):  # a component more or less would be another jet
        return ()
    ordered = sorted(numbers[0], key=int)
    return tuple(tuple(f"{stem}{n}" for n in ordered) for stem in stems)


FORMAT = Format(
    "top-tagging reference set", lambda names: all(_stem(names, first) for first in _FIRST),
    lambda names: [Flat("top-tagging reference set", table)] if (table := _table(names)) else [],
    otherwise="the columns E_n, PX_n, PY_n, PZ_n are not there for the same n",
)  # fmt: skip
