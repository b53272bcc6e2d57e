"""The shipped tagger on the emulator, through the real Triton server: the answers of the CPU device."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import fpga_ops
from tests.e2e.conftest import MODEL_REPOSITORY, serving

pytestmark = [pytest.mark.server, pytest.mark.emulator, pytest.mark.timeout(900)]

CONFIG = """
backend: "fpga"
max_batch_size: 2
input [ { name: "constituents" data_type: TYPE_FP32 dims: [ 200, 4 ] } ]
output [ { name: "probabilities" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" } ]
parameters { key: "contract" value { string_value: "constituents" } }
parameters { key: "device" value { string_value: "fpga-emulator" } }
parameters { key: "device_timeout_s" value { string_value: "600" } }
parameters { key: "self_test_interval_s" value { string_value: "0" } }
"""


def test_the_shipped_tagger_gives_the_cpus_answers(tmp_path: Path) -> None:
    shipped, model = MODEL_REPOSITORY / "top_tagger", tmp_path / "repository" / "top_tagger"
    newest = max((path for path in shipped.glob("[0-9]*")), key=lambda path: int(path.name))
    shutil.copytree(newest, model / newest.name)
    shutil.copy(shipped / "labels.txt", model)
    (model / "config.pbtxt").write_text(CONFIG)
    with np.load(newest / "golden.npz", allow_pickle=False) as archive:
        jets = archive["input"][2:4]  # loading has asked the first two
    with fpga_ops.load(newest / "model.onnx", "cpu", max_batch=2) as network:
        want = network.run({"constituents": jets})["probabilities"]
    with serving(tmp_path / "repository", "--no-watch") as service:
        got = service.infer("grpc", "top_tagger", jets, "constituents", "probabilities")
        devices = [line for line in service.metrics().splitlines() if 'device="fpga-emulator"' in line]
    np.testing.assert_array_equal(got, want)
    assert devices  # it was the emulator that answered
