"""What analysts already have works with the server as it is: plain tritonclient, and coffea's wrapper unmodified."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from sonic_client import Client, prepare
from tests.clients.jets import random_jets

pytestmark = pytest.mark.server


@pytest.mark.parametrize("module", [tritonclient.grpc, tritonclient.http])
def test_plain_tritonclient(module: object, grpc_url: str, http_url: str) -> None:
    url = grpc_url if module is tritonclient.grpc else http_url
    jets = random_jets(4)
    tensor = next(prepare(jets).chunks(4))
    plain = module.InferenceServerClient(url.partition("://")[2])
    given = module.InferInput("constituents", tensor.shape, "FP32")
    given.set_data_from_numpy(tensor)
    rows = plain.infer("top_tagger", [given]).as_numpy("probabilities")
    plain.close()
    with Client(f"{url}/top_tagger") as client:
        assert np.array_equal(rows, client.probabilities(jets))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "protocol",
    [
        "grpc",
        pytest.param(
            "http",
            marks=pytest.mark.xfail(
                raises=TypeError,
                reason="coffea 2026.9.0 passes as_json to tritonclient.http 2.73.0, which does not know it",
            ),
        ),
    ],
)
def test_the_coffea_wrapper_unmodified(protocol: str, grpc_url: str, http_url: str) -> None:
    from coffea.ml_tools import triton_wrapper as wrapper

    url = {"grpc": grpc_url, "http": http_url}[protocol]

    class Tagger(wrapper):
        def prepare_awkward(self, jets: ak.Array) -> tuple[tuple[list[str]], dict[str, object]]:
            tensors = np.concatenate(list(prepare(jets).chunks(100)))
            return (["probabilities"], {"constituents": ak.from_numpy(tensors)}), {}

    jets = random_jets(11)
    tagger = Tagger(model_url=f"{url}/top_tagger/1", client_args={"ssl": False} if protocol == "grpc" else {})
    scores = tagger(jets)["probabilities"]
    with Client(f"{url}/top_tagger/1") as client:
        assert np.array_equal(ak.to_numpy(scores), ak.to_numpy(client.probabilities(jets)))
