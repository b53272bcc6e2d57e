"""A model of Triton's Python backend that only calls the network: what any service by that backend must cost.

`least` copies this file into a model repository; it is run by Triton, and never imported here.
"""

import json
from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

import fpga_ops


class TritonPythonModel:
    """No check, no choice of device, no known answer, no batch, no metrics."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the network."""
        config = json.loads(args["model_config"])
        self._input, self._output = str(config["input"][0]["name"]), str(config["output"][0]["name"])
        given = {name: parameter["string_value"] for name, parameter in config["parameters"].items()}
        self._network = fpga_ops.load(given["path"], given["device"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request by itself."""
        responses = []
        for request in requests:
            tensor = pb_utils.get_input_tensor_by_name(request, self._input)
            values = self._network.run({self._input: tensor.as_numpy()})[self._output]
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(self._output, values)]))
        return responses

    def finalize(self) -> None:
        """Release the device."""
        self._network.close()
