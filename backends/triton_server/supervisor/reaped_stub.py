"""A dead stub that the server has waited for already: which of its models miss it.

Triton waits for a stub that it ends itself, and up to 2.64 never for one that died, which stays a zombie. From 2.65 on
it waits for a dead one too as soon as anybody asks whether its model is ready: Kubernetes, Envoy, a client. Then the
process is gone as if it had been told to end. But such a Triton also knows better of the model: it is in the index as
READY, since nobody unloaded it, and says of itself that it is not ready.

An older Triton calls the model ready, so that asking it costs two requests at a reload and changes nothing.
"""

from collections.abc import Iterable

from triton_server.errors import ServerError
from triton_server.server.control_api import Control
from triton_server.supervisor.processes import Stub


def is_missed(control: Control, stub: Stub, served: Iterable[tuple[str, str]]) -> bool:
    """Whether a model that the stub ran should serve and cannot.

    Args:
        control: The server's control API.
        stub: The process that has ended.
        served: Model and version of each that the supervisor watches.

    Returns:
        False also where the server does not answer: what is wrong then is found by others.
    """
    own = {(model, version) for model, version in served if stub.runs(model)}
    if not own:
        return False
    try:
        index = control.index(timeout=1.0)
    except (OSError, ServerError):
        return False
    loaded = {(str(entry["name"]), str(entry.get("version", ""))) for entry in index if entry.get("state") == "READY"}
    return any(control.refuses_model(model, version) for model, version in own & loaded)
