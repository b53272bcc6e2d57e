"""Free ports."""

import socket
from collections.abc import Sequence

from triton_server.errors import ServerStartError


def resolve_ports(address: str, wanted: Sequence[int]) -> list[int]:
    """Replace each 0 by a free port of ``address`` and check that the others are free.

    All sockets are held until every port is known, so no port is given twice. Raises ServerStartError for a taken port.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    held: list[socket.socket] = []
    try:
        for port in wanted:
            probe = socket.socket(family, socket.SOCK_STREAM)
            held.append(probe)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                raise ServerStartError(
                    f"cannot listen on {address}:{port}: {error.strerror}; choose another port, or 0 for a free one"
                ) from error
        return [int(probe.getsockname()[1]) for probe in held]
    finally:
        for probe in held:
            probe.close()
