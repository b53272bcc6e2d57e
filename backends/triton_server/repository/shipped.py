"""The models and jets that come with the project, in a checkout or in an installed wheel."""

import shutil
import tempfile
from importlib.resources import files
from pathlib import Path

from triton_server.errors import RepositoryError

_PACKAGE = Path(str(files("triton_server")))
_PLACES = (
    (_PACKAGE.parents[1] / "model_repository", _PACKAGE.parents[1] / "training" / "sample"),  # a checkout
    (_PACKAGE / "shipped" / "model_repository", _PACKAGE / "shipped" / "sample"),  # a wheel, with the tagger alone
)


def shipped_models() -> Path:
    """The repository of the shipped models.

    Raises:
        RepositoryError: This installation has none, as the one in the server's image.
    """
    return _find(0, "top_tagger/config.pbtxt").parents[1]


def shipped_jets() -> Path:
    """The file of simulated jets that the demo tags.

    Raises:
        RepositoryError: This installation has none.
    """
    return _find(1, "jets.root")


def copy_models(target: Path) -> list[str]:
    """Copy the shipped models into a repository, each complete or not at all; returns their names.

    Raises:
        RepositoryError: A model is there already, this installation has none, or the folder cannot be written.
    """
    source = shipped_models()
    names = sorted(path.parent.name for path in source.glob("*/config.pbtxt"))
    try:
        there = [name for name in names if (target / name).exists()]
        if there:
            raise RepositoryError(f"{target} has {', '.join(there)} already: nothing was copied. Give another folder")
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".copy-", dir=target) as folder:
            for name in names:
                shutil.copytree(source / name, Path(folder) / name)
                (Path(folder) / name).rename(target / name)
    except OSError as error:
        raise RepositoryError(f"cannot copy the models to {target}: {error.strerror or error}") from error
    return names


def _find(kind: int, name: str) -> Path:
    for place in _PLACES:
        if (place[kind] / name).is_file():
            return place[kind] / name
    raise RepositoryError(
        f"this installation comes without {name}: looked in {_PLACES[0][kind]} and {_PLACES[1][kind]}. "
        "Take it from a checkout of the project"
    )
