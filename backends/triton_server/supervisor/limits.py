"""How long the supervisor waits, and how much it lets the server have."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The supervisor's times in seconds, and the server's memory in bytes."""

    probe_interval: float = 2.0
    slow: float = 1.0
    """A probe that takes longer is slow."""
    hung: float = 4.0
    """No answer and no sign of work for this long is hung."""
    hung_at_work: float = 120.0
    """The same for an instance that uses the processor, as numpy's reference does for seconds."""
    watch_interval: float = 0.25
    repository_interval: float = 2.0
    server_bytes: int = 2 << 30
    """Memory of the server's own process, without the models'. Triton takes requests of any size, from as many clients
    as come, and keeps the buffers of large ones."""
