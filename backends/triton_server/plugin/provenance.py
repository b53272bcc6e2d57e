"""What each answer says of itself, where Triton lets it: the parameters of its response."""

from collections.abc import Mapping
from typing import Any

NAMES = ("device", "precision", "kernel", "isa")
"""What is taken from a network's description. ``kernel`` is a hash; ``isa`` a CPU's instruction set, if it is one."""


def provenance(description: Mapping[str, Any], version: str) -> dict[str, str]:
    """What answered: the device, its precision, kernel and instruction set, and the ``version`` of the model.

    ``description`` is what Network.describe says of the network that gave this very answer. Triton takes parameters
    that are strings, integers or booleans, and has no place for what is not known: it is left out.
    """
    told = {name: str(description.get(name) or "") for name in NAMES}
    return {name: value for name, value in {**told, "version": version}.items() if value}
