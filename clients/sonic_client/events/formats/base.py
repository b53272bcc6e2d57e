"""What a preset for an experiment's files is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sonic_client.events.readings import Collection, Reading

Names = Sequence[str]


def nothing(_names: Names) -> list[Collection]:
    """No candidates of whole events."""
    return []


@dataclass(frozen=True)
class Format:
    """One experiment's files.

    Attributes:
        name: For people.
        recognises: Whether columns of these names are such a file's.
        readings: All jets that can be put together without clustering, the preferred ones first.
        candidates: All of an event's candidates, to be clustered.
        otherwise: What to tell people whose file is recognised and has no jets that can be put together.
    """

    name: str
    recognises: Callable[[Names], bool]
    readings: Callable[[Names], Sequence[Reading]]
    candidates: Callable[[Names], list[Collection]] = nothing
    otherwise: str = ""


def momenta_of(names: Names, prefix: str, *components: str, **renamed: str) -> dict[str, str] | None:
    """Component -> column `prefix + component` (or `prefix + renamed[component]`) if all of them are there."""
    wanted = {component: prefix + component for component in components}
    wanted |= {component: prefix + name for component, name in renamed.items()}
    there = set(names)
    return wanted if all(column in there for column in wanted.values()) else None
