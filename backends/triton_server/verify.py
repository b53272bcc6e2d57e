"""What may be loaded: a model of the fpga backend whose files are what its card says they are.

The repository decides what code runs: Triton's Python backend would execute a model.py from it, or unpack and source an
environment. So a configuration is read before Triton sees it, and anything but data for our own backend is refused.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

ALLOWED_BACKENDS = ("fpga",)
_CHUNK = 1 << 20


@dataclass
class Verdict:
    """Models that may be loaded, and the others with the reason."""

    accepted: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    incomplete: list[str] = field(default_factory=list)
    """Those of the accepted whose configuration leaves out inputs or outputs, for Triton to complete."""


def verify_repository(repository: Path) -> Verdict:
    """Judge every model folder of a repository; cheap for files that did not change since the last look."""
    verdict = Verdict()
    for model in sorted(repository.iterdir()):
        if not model.is_dir() or model.name.startswith("."):
            continue
        reason = refusal(model)
        if reason is None:
            verdict.accepted.append(model.name)
            if not _complete(model):
                verdict.incomplete.append(model.name)
        else:
            verdict.refused[model.name] = reason
    return verdict


def refusal(model: Path) -> str | None:
    """Why a model folder must not be loaded, None when it may."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", model.name):
        return f"the folder's name {model.name!r} is not a model name (letters, digits, '_', '.', '-')"
    config = model / "config.pbtxt"
    if not config.is_file():
        return 'config.pbtxt is missing: expected at least the line: backend: "fpga"'
    try:
        text = config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return f"config.pbtxt cannot be read: {error}"
    return _config_refusal(text)


def _config_refusal(text: str) -> str | None:
    from google.protobuf import json_format  # type: ignore[import-untyped]

    config = _parse(text)
    if isinstance(config, str):
        return f"config.pbtxt: {config}"
    backend = config.backend
    ensemble = config.platform == "ensemble" and not backend
    if not ensemble and backend not in ALLOWED_BACKENDS:
        return f'config.pbtxt: expected backend: "fpga", found backend: "{backend or ""}"'
    if config.runtime or config.default_model_filename or config.model_operations.op_library_filename:
        choose = "'runtime', 'default_model_filename' and 'op_library_filename'"
        return f"config.pbtxt: {choose} choose code to run and are not allowed"
    for name, value in ((name, parameter.string_value) for name, parameter in config.parameters.items()):
        if name.upper() == "EXECUTION_ENV_PATH":
            return "config.pbtxt: parameter EXECUTION_ENV_PATH would run foreign code and is not allowed"
        if _leaves(value):
            return f"config.pbtxt: parameter {name}: path {value!r} leaves the model's folder"
    for name, value in _files(json_format.MessageToDict(config, preserving_proto_field_name=True)):
        if _leaves(value):
            return f"config.pbtxt: {name}: path {value!r} leaves the model's folder"
    return None


def _leaves(path: str) -> bool:
    return ".." in PurePosixPath(path).parts or path.startswith(("/", "~"))


def _files(config: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every file that a configuration names: label_filename of outputs, input_data_file of warm-ups, and others."""
    if isinstance(config, str):
        if "file" in name:
            yield name, config
    elif isinstance(config, dict):
        for key, value in config.items():
            yield from _files(value, f"{name}.{key}" if name else key)
    elif isinstance(config, list):
        for value in config:
            yield from _files(value, name)


def _complete(model: Path) -> bool:
    config = _parse((model / "config.pbtxt").read_text(encoding="utf-8"))
    return not isinstance(config, str) and bool(config.input) and bool(config.output)


def _parse(text: str) -> Any:
    """The configuration, read with Triton's own schema; a sentence when it does not parse."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        return str(error)


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def card_hashes(version: Path) -> dict[str, str]:
    """File name to SHA-256 from the version's model_card.json, empty without one. Raises ValueError for a bad card."""
    card = version / "model_card.json"
    if not card.is_file():
        return {}
    content = json.loads(card.read_text(encoding="utf-8"))
    files = content.get("files", {}) if isinstance(content, dict) else None
    if not isinstance(files, dict):
        raise ValueError("model_card.json: expected an object with 'files'")  # noqa: TRY004
    return {str(name): str(value).removeprefix("sha256:") for name, value in files.items()}
