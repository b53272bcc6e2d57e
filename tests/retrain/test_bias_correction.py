import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from retrain.data.images import JetImager
from retrain.errors import DataError
from retrain.quantisation.bias_correction import correct_biases
from tests.retrain.jets import toy_jets
from tests.retrain.tagger import IMAGE, tiny_float, tiny_quantised

INPUTS = JetImager(IMAGE, transformed=True)(toy_jets(12, seed=6).constituents)


def probabilities(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"network_input": INPUTS})[0]


def spoiled(model: onnx.ModelProto, steps: int) -> onnx.ModelProto:
    """Every convolution's bias off by some integer steps."""
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    producers = {output: node for node in wrong.graph.node for output in node.output}
    names = {producers[node.input[2]].input[0] for node in wrong.graph.node if node.op_type == "Conv"}
    for tensor in wrong.graph.initializer:
        if tensor.name in names:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.int32(steps), tensor.name))
    return wrong


def test_means_of_the_float_network_come_back() -> None:
    plain, quantised = tiny_float(), tiny_quantised()
    wrong = spoiled(quantised, 3000)
    seen: list[int] = []
    corrected = correct_biases(wrong, plain, INPUTS, seen.append)
    before, after = (np.abs(probabilities(model) - probabilities(plain)).mean() for model in (wrong, corrected))
    assert after < before / 5
    assert after < 0.02
    assert len(seen) == sum(node.op_type == "Conv" for node in quantised.graph.node)


def test_only_biases_change() -> None:
    quantised = tiny_quantised()
    corrected = correct_biases(quantised, tiny_float(), INPUTS)
    assert [node.SerializeToString() for node in corrected.graph.node] == [
        node.SerializeToString() for node in quantised.graph.node
    ]
    changed = {
        new.name
        for old, new in zip(quantised.graph.initializer, corrected.graph.initializer, strict=True)
        if not np.array_equal(numpy_helper.to_array(old), numpy_helper.to_array(new))
    }
    assert changed
    assert all("bias" in name or numpy_helper.to_array(t).dtype == np.int32 for t in corrected.graph.initializer
               for name in changed if t.name == name)  # fmt: skip


def test_no_inputs() -> None:
    with pytest.raises(DataError, match="at least one"):
        correct_biases(tiny_quantised(), tiny_float(), INPUTS[:0])
