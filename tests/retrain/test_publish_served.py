"""Publishing into a running service, under traffic."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tritonclient.http")

from retrain.errors import PublishError
from retrain.publishing import publish as publishing
from retrain.publishing.publish import publish, rollback
from retrain.publishing.versions import versions
from retrain.quantisation.export import with_images
from tests.e2e.conftest import CONFIG, Traffic, images, serving
from tests.retrain.tagger import IMAGE, tiny_quantised

pytestmark = pytest.mark.server

MODEL = "tiny"
CARD = {"metrics": {}}


def test_publish_and_roll_back_under_traffic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models"
    networks = [with_images(tiny_quantised(seed), IMAGE) for seed in (0, 1)]
    golden = images(2, 3, 32, 32)
    publish(repository, MODEL, networks[0], golden, CARD)
    (repository / MODEL / "config.pbtxt").write_text(CONFIG.format(device="reference", more=""))
    with serving(repository) as service:
        http = service.urls["http"].removeprefix("http://")
        first = service.infer("grpc", MODEL, images())
        with Traffic(service, MODEL, pause_s=0.02) as traffic:
            assert publish(repository, MODEL, networks[1], golden, CARD, server=http).number == 2
            second = service.infer("grpc", MODEL, images())
            assert not np.array_equal(first, second)

            def spoil(_: Path, answers: dict[str, np.ndarray]) -> None:
                answers["probabilities"] += 0.1

            # Known answers that are wrong stand for a server that answers wrongly.
            monkeypatch.setattr(publishing, "_verify", spoil)
            with pytest.raises(PublishError, match="version 3"):
                publish(repository, MODEL, networks[0], golden, CARD, server=http, timeout=15.0)
            assert [version.number for version in versions(repository, MODEL)] == [1, 2]
            assert np.array_equal(service.infer("grpc", MODEL, images()), second)

            assert rollback(repository, MODEL, server=http).number == 1
            assert np.array_equal(service.infer("grpc", MODEL, images()), first)
        assert traffic.statuses() == {"ok"}
        assert len(traffic.answers) > 5
