"""How ATLAS files name a collection that links point into: StoreGate's hash of its name and class.

`m_persKey` is the lowest 30 bits of a CRC-64 of the name, continued over the bytes of the class's number, the lowest
first (athena, SGTools StringPool::stringToKey). Of InDetTrackParticles, as tracks, it is 490246363.
"""

from __future__ import annotations

from collections.abc import Iterable

_POLYNOMIAL = 0x95AC9329AC4BC9B5  # reflected
_KEY_BITS = 30

CLASSES = {
    "FlowElementContainer": 1158384067,
    "PFOContainer": 1177172577,
    "TrackCaloClusterContainer": 1138314170,
    "CaloClusterContainer": 1219821989,
    "TruthParticleContainer": 1237340765,
    "TrackParticleContainer": 1287425431,
}
"""Numbers (CLIDs) of what constituents can be kept in."""
_FAMILIAR = (
    "UFOCSSK", "UFOCHS", "UFO", "CHSUFO", "CSSKUFO", "TruthParticles", "InDetTrackParticles", "CaloCalTopoClusters",
    *(f"{how}{kind}ParticleFlowObjects" for how in ("CHSG", "CSSKG", "Global") for kind in ("Charged", "Neutral", "")),
)  # fmt: skip


def keys(collection: str) -> frozenset[int]:
    """All `m_persKey` that a collection of this name may have."""
    return frozenset(_key(collection, number) for number in CLASSES.values())


def described(key: int) -> str:
    """A key for people: with the name, if it is that of a usual collection."""
    name = next((name for name in _FAMILIAR if key in keys(name)), None)
    return f"key {key}" if name is None else f"'{name}', key {key}"


def _key(name: str, number: int) -> int:
    crc = _crc(name.encode(), (1 << 64) - 1)
    crc = _crc(number.to_bytes((number.bit_length() + 7) // 8, "little"), crc)
    return crc & ((1 << _KEY_BITS) - 1)


def _crc(content: Iterable[int], crc: int) -> int:
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
    return crc
