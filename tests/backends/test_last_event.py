"""The last event, for the page of an operator who shows it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from triton_server.plugin.last_event import SIDE, LastEvent, read_events, shown
from triton_server.protocol import KNOWN_ANSWER_ID


def test_constituents_are_shown_about_the_jets_axis() -> None:
    row = np.zeros((200, 4), np.float32)
    row[0] = (100.0, -100.0, 0.0, 0.0)  # at phi = pi, where angles begin anew
    row[1] = (10.0, -10.0 * math.cos(0.1), -10.0 * math.sin(0.1), 0.0)
    row[2] = (10.0, -10.0 * math.cos(0.1), 10.0 * math.sin(0.1), 0.0)
    points = np.array(shown(row)["points"])
    np.testing.assert_allclose(points, [[0, 0, 100], [0, 0.1, 10], [0, -0.1, 10]], atol=1e-3)


def test_images_are_summed_over_planes_and_blocks() -> None:
    image = np.arange(3 * 224 * 224, dtype=np.float32).reshape(3, 224, 224)
    made = np.array(shown(image)["image"])
    assert made.shape == (SIDE, SIDE)
    assert made[0, 0] == image[:, :4, :4].sum()
    assert made.sum() == pytest.approx(image.astype(float).sum())
    assert np.array(shown(np.ones((2, 100, 80)))["image"]).shape == (50, 40)


@pytest.mark.parametrize("row", [np.zeros(3), np.zeros((5, 3)), np.zeros((200, 4)), np.float32(1)])
def test_what_cannot_be_drawn_is_not(row: np.ndarray) -> None:
    assert shown(np.asarray(row)) == {}


def test_one_event_at_a_time_is_kept_and_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("triton_server.plugin.last_event.time.monotonic", lambda: now)
    last = LastEvent(tmp_path, "tagger", "3")
    last.write()
    assert read_events(tmp_path, tmp_path / "models") == []
    images = np.ones((2, 3, 8, 8), np.float32)
    last.offer("", {"images": images}, {"y": np.array([[0.5, 0.5]])})
    last.write()
    assert read_events(tmp_path, tmp_path / "models") == [], "Triton's own, with which it warms the model up"
    last.offer(KNOWN_ANSWER_ID, {"images": images}, {"y": np.array([[0.5, 0.5]])})
    last.write()
    assert read_events(tmp_path, tmp_path / "models") == [], "the supervisor's"
    last.offer("", {"images": images}, {"y": np.array([[0.25, 0.75], [0, 1]])})
    last.offer("", {"images": images}, {"y": np.array([[1.0, 0.0], [0, 1]])})
    images[:] = 7
    last.write()
    (event,) = read_events(tmp_path, tmp_path / "models")
    assert (event["model"], event["version"], event["outputs"]) == ("tagger", "3", {"y": [0.25, 0.75]})
    assert event["image"] == [[3.0] * 8] * 8, "what came, though its memory is used again"
    now += 2.0
    last.offer("", {"images": images}, {"y": np.array([[1.0, 0.0]])})
    last.write()
    assert read_events(tmp_path, tmp_path / "models")[0]["outputs"] == {"y": [1.0, 0.0]}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("labels", "said"),
    [("qcd\ntop\n", {"y": ["qcd", "top"]}), ("one\ntwo\nthree\n", {}), ("\xff\xfe", {}), (None, {})],
    ids=["as many", "more", "one odd", "none"],
)
def test_classes_are_named_where_the_repository_names_them(
    tmp_path: Path, labels: str | None, said: dict[str, list[str]]
) -> None:
    last = LastEvent(tmp_path, "tagger", "3")
    last.offer(KNOWN_ANSWER_ID, {}, {})
    last.offer("", {"images": np.ones((1, 1, 8, 8), np.float32)}, {"y": np.array([[0.25, 0.75]])})
    last.write()
    repository = tmp_path / "models"
    (repository / "tagger").mkdir(parents=True)
    if labels is not None:
        (repository / "tagger" / "labels.txt").write_bytes(labels.encode("latin-1"))
    (event,) = read_events(tmp_path, repository)
    assert event["labels"] == said
