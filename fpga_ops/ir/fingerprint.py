"""A name for what an integer network computes: equal networks have equal fingerprints, in any process."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from fpga_ops.ir.network import IntegerNetwork


def fingerprint(network: IntegerNetwork) -> str:
    """SHA-256 in hexadecimal over steps, tensors and weights; names of nodes do not count."""
    digest = hashlib.sha256()
    numbers = {name: index for index, name in enumerate([*network.inputs, *(step.output for step in network.steps)])}

    def feed(value: object) -> None:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            digest.update(type(value).__name__.encode())
            for entry in dataclasses.fields(value):
                if entry.name not in ("nodes", "name"):
                    feed(getattr(value, entry.name))
        elif isinstance(value, str):
            digest.update(f"#{numbers.get(value, -1)}".encode())
        elif isinstance(value, tuple):
            digest.update(f"({len(value)}".encode())
            for item in value:
                feed(item)
        else:
            digest.update(f"{value!r};".encode())

    feed(network.steps)
    feed(tuple(network.tensors[name] for name in sorted(numbers, key=lambda name: numbers[name])))
    feed((network.inputs, network.outputs, tuple(sorted(network.signed))))
    return digest.hexdigest()
