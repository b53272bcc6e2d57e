"""What of a repository may be loaded at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from triton_server.repository.admission import pinned, refusal, verify_repository, versions


def test_what_file_servers_and_programs_make_is_no_model(tmp_path: Path) -> None:
    names = [
        "lost+found",
        "@eaDir",
        "#recycle",
        "$RECYCLE.BIN",
        "System Volume Information",
        "__pycache__",
        ".snapshot",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").touch()
    model(tmp_path, "tagger", 'backend: "fpga"')
    model(tmp_path, "_mine", 'backend: "fpga"')
    (tmp_path / "forgotten").mkdir()
    verdict = verify_repository(tmp_path)
    assert verdict.accepted == ["tagger"]
    assert set(verdict.refused) == {"_mine", "forgotten"}, "meant as models, and not good ones"
    assert "not a model name" in verdict.refused["_mine"]


SLOWING = """
backend: "fpga"
max_batch_size: 8
instance_group [ { kind: KIND_CPU count: 2 } ]
dynamic_batching {
  max_queue_delay_microseconds: 100
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 1000000 }
}
"""


@pytest.mark.parametrize(
    ("old", "new", "slowing"),
    [
        ("", "", True),
        ("count: 2", "count: 1", False),
        ("max_queue_delay_microseconds: 100", "max_queue_delay_microseconds: 0", False),
        ("default_timeout_microseconds: 1000000", "max_queue_size: 64", False),
        ("max_batch_size: 8", "max_batch_size: 1", False),
    ],
)
def test_what_tritons_batcher_serves_ever_more_slowly_is_told(
    tmp_path: Path, old: str, new: str, slowing: bool
) -> None:  # fmt: skip
    model(tmp_path, "tagger", SLOWING.replace(old, new))
    assert verify_repository(tmp_path).slowing == (["tagger"] if slowing else [])


def test_the_shipped_models_are_not_among_them() -> None:
    verdict = verify_repository(Path(__file__).resolve().parents[2] / "model_repository")
    assert verdict.accepted
    assert not verdict.slowing


def model(repository: Path, name: str, config: str | bytes | None) -> Path:
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    if config is not None:
        (folder / "config.pbtxt").write_bytes(config if isinstance(config, bytes) else config.encode())
    return folder


@pytest.mark.parametrize(
    "config",
    [
        'backend: "fpga"',
        'backend: "fpga"\nmax_batch_size: 8',
        'platform: "ensemble"',
        'backend: "fpga" output { name: "y" label_filename: "labels.txt" }',
        'backend: "fpga" model_warmup { name: "w" inputs { key: "../x" value { input_data_file: "x" } } }',
    ],
)
def test_our_models_may(tmp_path: Path, config: str) -> None:
    assert refusal(model(tmp_path, "tagger", config)) is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "config.pbtxt is missing"),
        ("", 'expected backend: "fpga"'),
        ('backend: "python"', 'found backend: "python"'),
        ('backend: "onnxruntime"', "onnxruntime"),
        ('backend: "fpga" default_model_filename: "../../x.py"', "default_model_filename"),
        ('backend: "fpga" runtime: "x.so"', "runtime"),
        (
            'backend: "fpga" parameters { key: "EXECUTION_ENV_PATH" value { string_value: "env.tar" } }',
            "EXECUTION_ENV_PATH",
        ),
        ('backend: "fpga" parameters { key: "device" value { string_value: "/etc/passwd" } }', "leaves the model"),
        ('backend: "fpga" parameters { key: "x" value { string_value: "a/../../b" } }', "leaves the model"),
        ('backend: "fpga" output { name: "y" label_filename: "../other/labels.txt" }', "output.label_filename"),
        (
            'backend: "fpga" model_warmup { name: "w" inputs { key: "x" value { input_data_file: "/etc/passwd" } } }',
            "leaves the model",
        ),
        ('platform: "ensemble" output { name: "y" label_filename: "/etc/passwd" }', "output.label_filename"),
        ('backend: "fpga" model_operations { op_library_filename: "x.so" }', "op_library_filename"),
        ('backend: "fpga" cc_model_filenames { key: "7.0" value: "../x" }', "leaves the model"),
        ('backend: "fpga', "config.pbtxt:"),
        ('backends: "fpga"', "config.pbtxt:"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_others_may_not_and_hear_why(tmp_path: Path, config: str | bytes | None, words: str) -> None:
    assert words in str(refusal(model(tmp_path, "tagger", config)))


def test_one_bad_model_does_not_shut_out_the_others(tmp_path: Path) -> None:
    model(tmp_path, "good", 'backend: "fpga"')
    model(tmp_path, "bad", 'backend: "python"')
    model(tmp_path, ".hidden", None)
    (tmp_path / "README").write_text("a file is no model")
    verdict = verify_repository(tmp_path)
    assert verdict.accepted == ["good"]
    assert list(verdict.refused) == ["bad"]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["2", "3.bak", "3", "01", ".4", "-5", "notes"], None),
        (["2_old"], "'2_old' counts as version 2"),
        (["99999999999999999999"], "counts as version 99999999999999999999"),
    ],
)
def test_folders_that_count_as_versions_are_ones(tmp_path: Path, entries: list[str], words: str | None) -> None:
    """Triton reads as much of a name as is a number, looks for the folder of that, and ends when it is too large."""
    tagger = model(tmp_path, "tagger", 'backend: "fpga"')
    for entry in entries:
        (tagger / entry).mkdir()
    (tagger / "7").touch()  # no folder, so no version
    reason = refusal(tagger)
    assert reason is None if words is None else reason is not None and words in reason


def test_a_version_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    tagger = model(tmp_path, "tagger", 'backend: "fpga"')
    (tagger / "2").symlink_to(tmp_path / "nowhere")
    assert "'2' counts as version 2" in str(refusal(tagger))


def test_what_is_no_model_does_not_hinder_the_others(tmp_path: Path) -> None:
    model(tmp_path, "tagger", 'backend: "fpga"')
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "README").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    verdict = verify_repository(tmp_path)
    assert verdict.accepted == ["tagger"]
    assert verdict.refused == {"link": "it is a link that leads nowhere"}


def test_one_version_can_be_pinned(tmp_path: Path) -> None:
    tagger = model(tmp_path, "tagger", 'backend: "fpga"\nmax_batch_size: 8')
    for name in ("2", "10", "x"):
        (tagger / name).mkdir()
    assert versions(tagger) == [10, 2, 1]
    config = json.loads(pinned(tagger, 2))
    assert config == {
        "name": "tagger", "backend": "fpga", "max_batch_size": 8, "version_policy": {"specific": {"versions": ["2"]}},
    }  # fmt: skip
    own = model(tmp_path, "own", 'backend: "fpga"\nversion_policy { all {} }')
    with pytest.raises(ValueError, match="names the versions"):
        pinned(own, 1)
