"""What a Triton installation can do, found out by looking at its files, never by its version.

Each ability has a sign: a name that the file of a Triton which has it must hold, since the code of the ability uses it
as a string or a symbol. Beside it stands an anchor, a name that this file holds in every Triton. A file without the
anchor (a wrapper script, a packed program) tells nothing: its abilities count as absent, and why is said.

Inside a stub there is more to ask: `takes_parameters` asks its module itself.
"""

import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

NEWEST_KNOWN = (2, 72)
"""The newest Triton that the plugin was tried with."""


class Ability(StrEnum):
    """What Tritons differ in, as far as the project cares."""

    RESPONSE_PARAMETERS = "response_parameters"
    """A Python model may give its answers parameters."""
    IS_READY = "is_ready"
    """A Python model's `is_ready()` decides whether Triton calls it ready."""
    CLIENT_SHARED_MEMORY_FLAG = "client_shared_memory_flag"
    """Clients' shared memory is off unless `--allow-client-shm=true` is given; without the ability it is on."""
    DEAD_STUB_READINESS = "dead_stub_readiness"
    """A model whose stub has died is not ready, and who asks makes the server wait for the dead process."""
    NUMPY_2 = "numpy_2"
    """The stub's arrays are sound with numpy 2; without the ability it corrupts them silently."""


@dataclass(frozen=True)
class Sign:
    """How one ability is found out."""

    file: str
    """An attribute of Installation: binary, python_backend or stub."""
    text: bytes
    """What the file holds if, and only if, it has the ability."""
    anchor: bytes
    """What it holds in any case."""
    since: str
    """The release that brought it; for people alone."""
    why: str
    """What the code of the ability does with the text."""


SIGNS: Mapping[Ability, Sign] = {
    Ability.RESPONSE_PARAMETERS: Sign(
        "python_backend", b"TRITONBACKEND_ResponseSetStringParameter", b"TRITONBACKEND_ModelInstanceExecute", "2.55",
        "the function of Triton's core that the Python backend gives the parameters to",
    ),
    Ability.IS_READY: Sign(
        "stub", b"is_ready\0", b"InferenceResponse", "2.67", "the attribute that the stub looks for in a model"
    ),
    Ability.CLIENT_SHARED_MEMORY_FLAG: Sign(
        "binary", b"allow-client-shm", b"model-control-mode", "2.68", "the name of the option"
    ),
    Ability.DEAD_STUB_READINESS: Sign(
        "python_backend", b"TRITONBACKEND_ModelInstanceReady", b"TRITONBACKEND_ModelInstanceExecute", "2.65",
        "the function of the Python backend that Triton's core asks",
    ),
    Ability.NUMPY_2: Sign(
        "stub", b"NumpyVersion", b"InferenceResponse", "2.52",
        "the class of numpy by which pybind11 2.12 and later tell numpy 2",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Abilities:
    """The abilities of one Triton."""

    present: frozenset[Ability]
    undetermined: Mapping[Ability, str] = field(default_factory=dict)
    """Abilities that the files do not tell, which count as absent, and the reason."""

    def __contains__(self, ability: Ability) -> bool:
        return ability in self.present

    def as_json(self) -> dict[str, bool]:
        """Every ability by name."""
        return {str(ability): ability in self.present for ability in Ability}

    def lines(self) -> list[str]:
        """How each was found out, for a person who looks for a fault."""
        found = []
        for ability, sign in SIGNS.items():
            text = sign.text.strip(b"\0").decode()
            if ability in self.undetermined:
                found.append(f"{ability}: taken as absent, {self.undetermined[ability]}")
            else:
                holds = "holds" if ability in self.present else "does not hold"
                found.append(
                    f"{ability}: {'yes' if ability in self.present else 'no'}, its {sign.file} {holds} '{text}'"
                )
        return found


def look(files: Mapping[str, Path]) -> Abilities:
    """Find out what a Triton can do. ``files`` are its "binary", "python_backend" and "stub"."""
    present: set[Ability] = set()
    undetermined: dict[Ability, str] = {}
    for ability, sign in SIGNS.items():
        path = files[sign.file]
        try:
            anchored, holds = (holds_text(path, text) for text in (sign.anchor, sign.text))
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            undetermined[ability] = f"{path} cannot be read: {error}"
            continue
        if not anchored:
            undetermined[ability] = f"{path} is not the file of Triton that was expected: no '{sign.anchor.decode()}'"
        elif holds:
            present.add(ability)
    return Abilities(frozenset(present), undetermined)


def holds_text(path: Path, text: bytes) -> bool:
    """Whether a file holds these bytes. Raises OSError, or ValueError for an empty file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0


def python_of(stub: Path) -> str | None:
    """The Python that a stub is built for ("3.12"), from the library that it is linked with; None if it does not tell.

    Raises OSError, or ValueError for an empty file.
    """
    with stub.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = re.search(rb"libpython(3\.\d+)[a-z]*\.so", content)
        return None if found is None else found[1].decode()


def knows_numpy_2(stub: Path) -> bool:
    """Whether the arrays of a stub are sound with numpy 2; False where its file does not tell."""
    try:
        return holds_text(stub, SIGNS[Ability.NUMPY_2].text)
    except (OSError, ValueError):
        return False


def takes_parameters(utils: Any) -> bool:
    """Whether answers may have parameters, asked of ``utils``, the stub's triton_python_backend_utils."""
    try:
        utils.InferenceResponse([], parameters={"asked": "whether this is taken"})
    except TypeError:
        return False
    return True


def newer_than_known(version: str) -> bool:
    """Whether a Triton is newer than any that the plugin was tried with. A version of another form is not known."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is None or (int(numbers[1]), int(numbers[2])) > NEWEST_KNOWN
