"""Version folders of the model repository: written whole or not at all, described by a model card.

A folder `<repository>/<model>/<version>/` holds model.onnx, golden.npz (inputs with the exact integers and the scores
they must give) and model_card.json (where the weights come from, what they reach, and the SHA-256 of each file).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fpga_ops.ir.network import INTEGER_RULE
from retrain.data.jet_table import LABELS
from retrain.errors import PublishError

MODEL_FILE, GOLDEN_FILE, CARD_FILE, LABELS_FILE = "model.onnx", "golden.npz", "model_card.json", "labels.txt"
CONFIG_FILE = "config.pbtxt"
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""What the server takes for a model's name."""
WITHDRAWN = ".withdrawn-"
CONTRACTS_BY_INPUT = {"constituents": "constituents", "images": "images", "pixel_maps": "images"}
CONFIG = """backend: "fpga"
max_batch_size: 8

instance_group [ {{ kind: KIND_CPU count: 1 }} ]

parameters {{ key: "device" value {{ string_value: "auto,reference" }} }}
parameters {{ key: "contract" value {{ string_value: "{contract}" }} }}
"""


@dataclass(frozen=True)
class Version:
    """A version folder that is there."""

    model: str
    number: int
    folder: Path

    @property
    def card(self) -> dict[str, Any]:
        """The model card; PublishError when it is missing or unreadable."""
        path = self.folder / CARD_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PublishError(f"{path}: not a readable model card ({error})") from error
        if not isinstance(content, dict):
            raise PublishError(f"{path}: expected a JSON object")
        return content


def check_name(model: str) -> None:
    """Raises PublishError for a name that the server would not serve."""
    if not MODEL_NAME.fullmatch(model):
        raise PublishError(
            f"{model!r} is not a model name: letters, digits, '_', '.' and '-' are expected, a letter or digit first"
        )


def versions(repository: Path, model: str) -> list[Version]:
    """The versions of a model, oldest first."""
    folder = repository / model
    if not folder.is_dir():
        return []
    numbers = sorted(int(entry.name) for entry in folder.iterdir() if entry.is_dir() and entry.name.isdecimal())
    return [Version(model, number, folder / str(number)) for number in numbers]


def write_version(
    repository: Path,
    model: str,
    network: onnx.ModelProto,
    golden_input: NDArray[np.float32],
    card: Mapping[str, Any],
    verify: Callable[[Path, Mapping[str, NDArray[Any]]], None] = lambda *_: None,
) -> Version:
    """Add the next version of a model: it appears in the repository complete, by one rename.

    The known answers are computed with the integer reference, so making them proves that the file can be served;
    `verify` gets the file and the answers, and raises to prevent the version.

    Raises:
        PublishError: Another process published the same version at the same time, or the disk is full.
        ModelError: `fpga_ops` cannot serve the network.
    """
    folder = repository / model
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max([version.number for version in versions(repository, model)] + _withdrawn(folder), default=0)
    staging = folder / f".staging-{number}-{os.getpid()}"
    try:
        staging.mkdir()
        onnx.save(network, staging / MODEL_FILE)
        answers = known_answers(staging / MODEL_FILE, golden_input)
        verify(staging / MODEL_FILE, answers)
        _write_answers(staging / GOLDEN_FILE, answers)
        files = {name: sha256(staging / name) for name in (MODEL_FILE, GOLDEN_FILE)}
        labels = list(card.get("labels", LABELS))
        content = {"model": model, "version": number, "labels": labels, **card, "files": files}
        (staging / CARD_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (folder / LABELS_FILE).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        if not (folder / CONFIG_FILE).exists():  # a new model: Triton completes the rest from the file
            contract = CONTRACTS_BY_INPUT.get(network.graph.input[0].name, "finite")
            (folder / CONFIG_FILE).write_text(CONFIG.format(contract=contract), encoding="utf-8")
        target = folder / str(number)
        staging.rename(target)  # fails when the target is there and not empty: another publisher was faster
    except OSError as error:
        raise PublishError(f"{folder}: version {number} could not be written: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Version(model, number, target)


def withdraw(version: Version) -> Path:
    """Hide a version from the server, by one rename; its number is not given again. Returns where it is now."""
    hidden = version.folder.with_name(f"{WITHDRAWN}{version.number}")
    try:
        version.folder.rename(hidden)
    except OSError as error:
        raise PublishError(f"{version.folder}: could not be withdrawn: {error}") from error
    return hidden


def _withdrawn(folder: Path) -> list[int]:
    names = (entry.name.removeprefix(WITHDRAWN) for entry in folder.glob(f"{WITHDRAWN}*"))
    return [int(name) for name in names if name.isdecimal()]


def known_answers(model: Path, golden_input: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """`input`, the reference's exact `features` uint8 and the `probabilities` float32 of a served file."""
    import fpga_ops

    network = fpga_ops.load(model, device="reference", max_batch=len(golden_input))
    try:
        (name,) = network.describe()["inputs"]
        features = network.features({name: golden_input})
        probabilities = network.run({name: golden_input})["probabilities"]
    finally:
        network.close()
    return {"input": golden_input, "features": next(iter(features.values())), "probabilities": probabilities}


def _write_answers(path: Path, answers: Mapping[str, NDArray[Any]]) -> None:
    with path.open("wb") as stream:
        np.savez_compressed(stream, rule=np.array(INTEGER_RULE), **answers)
        stream.flush()
        os.fsync(stream.fileno())


def renew_answers(version: Version) -> None:
    """Compute the known answers of a version anew, from the inputs it has, and write their hash into its card.

    For versions whose integers were made by an earlier rule than this software's. The network stays as it is.

    Raises:
        PublishError: The network is not the one of the card, or the folder has no readable inputs or is read-only.
        ModelError: `fpga_ops` cannot serve the network.
    """
    card, golden = version.card, version.folder / GOLDEN_FILE
    if MODEL_FILE in damaged_files(version):
        raise PublishError(
            f"{version.folder / MODEL_FILE} is not what the model card says; its answers stay as they are"
        )
    try:
        with np.load(golden, allow_pickle=False) as archive:
            given = archive["input"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise PublishError(f"{golden} cannot be read: {error}") from error
    answers = known_answers(version.folder / MODEL_FILE, given)
    written = [version.folder / f".{name}-{os.getpid()}" for name in (GOLDEN_FILE, CARD_FILE)]
    try:
        _write_answers(written[0], answers)
        content = {**card, "files": {**card["files"], GOLDEN_FILE: sha256(written[0])}}
        written[1].write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        written[0].replace(golden)  # a stop between the two is seen by the card's hash, and mended by running it again
        written[1].replace(version.folder / CARD_FILE)
    except OSError as error:
        raise PublishError(f"{version.folder}: the answers could not be written: {error}") from error
    finally:
        for path in written:
            path.unlink(missing_ok=True)


def damaged_files(version: Version) -> list[str]:
    """Files that are not what the card says, by name; empty for a sound version."""
    files = version.card.get("files")
    if not isinstance(files, dict) or MODEL_FILE not in files:
        raise PublishError(f"{version.folder / CARD_FILE}: holds no hash of {MODEL_FILE}")
    return [
        name
        for name, expected in files.items()
        if not (version.folder / name).is_file() or sha256(version.folder / name) != expected
    ]


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def git_revision() -> str | None:
    """The revision of the code, with `-modified` for uncommitted changes; None outside a git work tree."""
    here = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=-modified"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip() or None
