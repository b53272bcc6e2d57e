"""An answered request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sonic_client.core.server_metrics import ModelMetrics
from sonic_client.core.timing import CallTiming
from sonic_client.core.transports.base import Tensor

PROVENANCE = ("device", "precision", "kernel", "version")
"""What `Reply.provenance` has always."""
_WHERE_KNOWN = ("isa", "temperature")
"""A CPU's instruction set; what the logits of the scores were divided by, where they were."""


@dataclass(frozen=True)
class Reply:
    """An answered request.

    Attributes:
        outputs: Tensors by name, batch first.
        request_id: The id it carried.
        server: Who answered: a server's URL, or `local:...` for the in-process fallback.
        model_version: The version that answered.
        attempts: How often it was sent.
        timing: Where the time went, as far as the client sees it.
        parameters: Response parameters, if the server sends any.
        metrics: Where to ask what answered, if the parameters do not say.
    """

    outputs: dict[str, Tensor]
    request_id: str
    server: str
    model_version: str
    attempts: int
    timing: CallTiming
    parameters: dict[str, Any]
    metrics: ModelMetrics | None = field(default=None, repr=False, compare=False)

    @property
    def provenance(self) -> dict[str, str]:
        """What answered: "device", "precision", "kernel" (a hash), "version"; "isa", "temperature" where there is one.

        From the response parameters, where the server sends them (Triton 2.55 and later can): then it is of this very
        answer. Else from the server's metrics page, which says what answers for this version at the time of asking (at
        most 5 s ago; asking takes up to 1 s). What nothing says is "".
        """
        said: dict[str, Any] = self.parameters
        if not said.get("device") and self.metrics is not None:
            said = self.metrics.provenance(self.model_version)
        found = {name: str(said.get(name, "")) for name in PROVENANCE}
        found["version"] = found["version"] or self.model_version
        return found | {name: str(said[name]) for name in _WHERE_KNOWN if said.get(name)}
