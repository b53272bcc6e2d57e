"""Awkward arrays whose type allows missing values although none is missing."""

from __future__ import annotations

from typing import Any

import awkward as ak


def without_options(array: Any) -> Any:
    """The same values, of a type in which nothing can be missing. Raises ValueError where a value is missing.

    Not `ak.drop_none`: it takes no array with 32-bit offsets, which is what pyarrow gives (awkward 2.14).
    """

    def strip(layout: Any, **_: Any) -> Any:
        if not layout.is_option:
            return None
        values = layout.project()
        if len(values) != len(layout):
            raise ValueError(f"{len(layout) - len(values)} values are missing")
        return ak.transform(strip, values, highlevel=False)

    # Packed, so that no list has unreachable values whose loss would move the others.
    return ak.transform(strip, ak.to_packed(array))
