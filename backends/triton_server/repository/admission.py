"""What may be loaded: a model of the fpga backend whose files are what its card says they are.

The repository decides what code runs: Triton's Python backend would execute a model.py from it, or unpack and source an
environment. So a configuration is read before Triton sees it, and anything but data for our own backend is refused.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

ALLOWED_BACKENDS = ("fpga",)
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NO_MODELS = {"lost+found", "system volume information", "network trash folder", "temporary items"}
"""Folders that file systems and file servers put beside a user's own, in lower case."""
_CHUNK = 1 << 20


@dataclass
class Verdict:
    """Models that may be loaded, and the others with the reason."""

    accepted: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    incomplete: list[str] = field(default_factory=list)
    """Those of the accepted whose configuration leaves out inputs or outputs, for Triton to complete."""
    slowing: list[str] = field(default_factory=list)
    """Those of the accepted that Triton 2.51 serves ever more slowly; see ``slows_down``."""


def verify_repository(repository: Path) -> Verdict:
    """Judge every model folder of a repository; cheap for files that did not change since the last look."""
    verdict = Verdict()
    for model in sorted(repository.iterdir()):
        if is_no_model(model):
            continue
        if not model.is_dir():
            if model.is_symlink() and not model.exists():  # Triton gives up the whole repository over it
                verdict.refused[model.name] = "it is a link that leads nowhere"
            continue
        reason = refusal(model)
        if reason is not None:
            verdict.refused[model.name] = reason
            continue
        verdict.accepted.append(model.name)
        config = _parse((model / "config.pbtxt").read_text(encoding="utf-8"))
        if not (config.input and config.output):
            verdict.incomplete.append(model.name)
        if slows_down(config):
            verdict.slowing.append(model.name)
    return verdict


def is_no_model(entry: Path) -> bool:
    """Whether an entry of the repository is nobody's attempt at a model, and so not worth a word.

    It is hidden, or of a program that makes folders of its own (``lost+found``, ``@eaDir``, ``#recycle``,
    ``$RECYCLE.BIN``, ``__pycache__``): no model's name begins as these do. One that holds a config.pbtxt is meant.
    """
    name = entry.name
    if name.startswith(".") or name.lower() in _NO_MODELS:
        return True
    try:
        return name[0] in "@#$~_" and not (entry / "config.pbtxt").exists()
    except OSError:
        return True


def refusal(model: Path) -> str | None:
    """Why a model folder must not be loaded, None when it may."""
    try:
        return _refusal(model)
    except (OSError, UnicodeDecodeError) as error:
        return f"it cannot be read: {error}"


def _refusal(model: Path) -> str | None:
    if not _MODEL_NAME.fullmatch(model.name):
        return f"the folder's name {model.name!r} is not a model name (letters, digits, '_', '.', '-')"
    config = model / "config.pbtxt"
    if not config.is_file():
        return 'config.pbtxt is missing: expected at least the line: backend: "fpga"'
    return _config_refusal(config.read_text(encoding="utf-8")) or _version_refusal(model)


def _version_refusal(model: Path) -> str | None:
    """Triton takes every folder for a version whose name begins with a digit, and the number that it begins with."""
    for entry in sorted(model.iterdir()):
        digits = re.match(r"[0-9]+", entry.name)
        if digits is None or entry.is_file():
            continue
        number = int(digits[0])
        folder = model / str(number)
        if number >= 1 << 63 or not folder.is_dir():
            return f"{entry.name!r} counts as version {number}: expected a folder of this name; hide others with a dot"
        if not os.access(folder, os.R_OK | os.X_OK):
            return f"version {number} cannot be read: let user {os.getuid()} read it"
    return None


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
    if config.model_transaction_policy.decoupled:
        return "config.pbtxt: model_transaction_policy says decoupled, and each request has one answer: leave it out"
    if config.response_cache.enable:
        return (
            "config.pbtxt: response_cache is enabled, and a kept answer would hide a broken device, outlive a version "
            "replaced in place, and be taken for scores at another temperature: leave it out"
        )
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


def slows_down(config: Any) -> bool:
    """Whether a model meets the fault of Triton's batcher that upstream's server#8870 describes and core#509 mends.

    With a queue time-out the batcher waits for a free instance. It loses count of them, until the model is loaded
    again, each time an instance merges waiting batches: with several instances, batches, and a queue delay.
    """
    batching = config.dynamic_batching
    policies = (batching.default_queue_policy, *batching.priority_queue_policy.values())
    timed = any(policy.default_timeout_microseconds for policy in policies)
    instances = sum(group.count or 1 for group in config.instance_group)
    delayed = batching.max_queue_delay_microseconds > 0 and config.max_batch_size > 1
    return bool(timed and delayed and instances > 1)


def pinned(model: Path, version: int) -> str:
    """The model's configuration as JSON, but that it serves one version in place of the newest.

    Raises ValueError for a faulty configuration, or one that names its versions.
    """
    from google.protobuf import json_format

    config = _parse((model / "config.pbtxt").read_text(encoding="utf-8"))
    if isinstance(config, str):
        raise ValueError(f"config.pbtxt: {config}")  # noqa: TRY004 - a sentence says what is wrong
    if config.version_policy.WhichOneof("policy_choice") not in (None, "latest"):
        raise ValueError("config.pbtxt: version_policy names the versions to serve")
    config.name = model.name
    config.version_policy.specific.versions[:] = [version]
    return str(json_format.MessageToJson(config, preserving_proto_field_name=True))


def versions(model: Path) -> list[int]:
    """The versions of a model folder, the newest first."""
    names = (entry.name for entry in model.glob("[1-9]*") if entry.is_dir())
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


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
