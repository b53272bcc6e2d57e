"""Find, assemble, start, watch and stop the real Triton inference server with the ``fpga`` backend.

from triton_server import TritonServer

with TritonServer("model_repository") as server:
    print(server.http_url, server.grpc_url)
"""

from fpga_ops.moved_modules import redirect
from triton_server.errors import ServerError, ServerNotFoundError, ServerStartError
from triton_server.old_paths import MOVED
from triton_server.server.server import TritonServer

redirect(MOVED)

__all__ = ["ServerError", "ServerNotFoundError", "ServerStartError", "TritonServer"]
