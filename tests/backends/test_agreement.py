"""What config.pbtxt says of a model must be so: else it is refused at load, with the reason."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from fpga_ops.errors import ModelError
from triton_server.plugin.agreement import check_agreement, largest_batch

FILE = {
    "inputs": {"jets": {"dtype": "float32", "shape": [-1, 200, 4]}},
    "outputs": {
        "scores": {"dtype": "float32", "shape": [-1, 2]},
        "table": {"dtype": "float64", "shape": [7]},
        "any": {"dtype": "float32", "shape": []},
    },
}


def config(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "max_batch_size": 8,
        "input": [{"name": "jets", "data_type": "TYPE_FP32", "dims": [200, 4]}],
        "output": [{"name": "scores", "data_type": "TYPE_FP32", "dims": [2]}],
    }
    for name, value in changes.items():
        place, _, key = name.partition("_")
        if place in ("input", "output"):
            made[place][0][key] = value
        else:
            made[name] = value
    return made


@pytest.mark.parametrize(
    "given",
    [
        config(),
        config(input_dims=[-1, 4]),
        config(input_dims=["200", "4"]),  # as protobuf writes 64 bits in JSON
        config(input_dims=[800], input_reshape={"shape": [200, 4]}),
        config(output_name="any", output_dims=[3, 3]),
        config(max_batch_size=0, input_dims=[-1, 200, 4], output_dims=[-1, 2]),
        config(max_batch_size=0, input_dims=[4, 200, 4], output_dims=[4, 2]),
        config(max_batch_size=0, input_dims=[-1, 200, 4], output_name="table", output_data_type="TYPE_FP64",
               output_dims=[7]),
    ],
)  # fmt: skip
def test_what_the_file_does_too_is_taken(given: dict[str, Any]) -> None:
    before = copy.deepcopy(given)
    check_agreement(given, FILE, "constituents")
    assert given == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_name": "jet"}, r"inputs \['jets'\] are expected, as in model.onnx, \['jet'\] came"),
        ({"output_name": "score"}, r"outputs \['any', 'scores', 'table'\] are expected.*\['score'\] came"),
        ({"input_data_type": "TYPE_FP64"}, "type float32 is expected, as in model.onnx, TYPE_FP64 came"),
        ({"input_data_type": "TYPE_UINT8"}, "type float32 is expected"),
        ({"output_data_type": "TYPE_FP16"}, "output 'scores': type float32 is expected"),
        ({"output_dims": [3]}, r"dims \[2\] are expected, as in model.onnx, \[3\] came"),
        ({"input_dims": [100, 4]}, r"dims \[200, 4\] are expected"),
        ({"input_dims": [800]}, r"dims \[200, 4\] are expected"),
        ({"output_reshape": {"shape": [1, 2]}}, r"dims \[2\] are expected, as in model.onnx, \[1, 2\] came"),
        ({"output_name": "table", "output_data_type": "TYPE_FP64", "output_dims": [7]}, "has no batch dimension"),
        ({"max_batch_size": 0}, r"dims \[-1, 200, 4\] are expected"),
        ({"input_optional": True}, "optional is set"),
        ({"input_allow_ragged_batch": True}, "allow_ragged_batch is set"),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        check_agreement(config(**changes), FILE, "finite")


def test_an_input_that_is_left_out_is_named() -> None:
    two = {**FILE, "inputs": {**FILE["inputs"], "mass": {"dtype": "float32", "shape": [-1, 1]}}}
    with pytest.raises(ModelError, match=r"inputs \['jets', 'mass'\] are expected"):
        check_agreement(config(), two, "finite")


def test_a_contract_for_other_inputs_is_refused() -> None:
    images = {**FILE, "inputs": {"jets": {"dtype": "float32", "shape": [-1, 3, 32, 32]}}}
    given = config(input_dims=[3, 32, 32])
    check_agreement(given, images, "images")
    with pytest.raises(ModelError, match=r"'contract': constituents have shape \[-1, n, 4\].*\[-1, 3, 32, 32\]"):
        check_agreement(given, images, "constituents")


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, 8),
        ({"max_batch_size": 3}, 3),
        ({"max_batch_size": 0, "input_dims": [-1, 200, 4]}, 8),
        ({"max_batch_size": 0, "input_dims": [16, 200, 4]}, 16),
    ],
)
def test_the_largest_batch(changes: dict[str, Any], rows: int) -> None:
    assert largest_batch(config(**changes)) == rows
