"""What of a repository may be loaded at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from triton_server.verify import refusal, verify_repository


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
