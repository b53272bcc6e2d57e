"""Copy models into the volume that the replicas share, before they start.

    seed.py SOURCE VOLUME             models that the volume has not got; what was published or rolled back there stays
    seed.py SOURCE VOLUME --versions  also versions that a model in the volume has not got (after an upgrade), but for
                                      those that were rolled back there

A version appears at once or not at all: it is copied under a name that Triton ignores, then renamed. Nothing is
overwritten.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

STAGED = ".seed-"
WITHDRAWN = ".withdrawn-"
"""What a version is called that was published and rolled back (retrain.publishing.versions)."""


class SeedError(Exception):
    """What is wrong with the source or the volume, and what to do."""


def seed(source: Path, volume: Path, *, versions: bool = False) -> Iterator[str]:
    """Copy, and say each thing done. Raises SeedError; what was complete before stays."""
    if not volume.is_dir():
        raise SeedError(f"no volume at {volume}: mount one there")
    if not os.access(source, os.R_OK | os.X_OK):
        raise SeedError(f"cannot read {source}: let user {os.getuid()} read it, or correct MODEL_SOURCE")
    models = sorted(path.parent for path in source.glob("*/config.pbtxt"))
    if not models:
        raise SeedError(f"no model in {source}: expected <model>/config.pbtxt and <model>/<version>/model.onnx")
    for model in models:
        target = volume / model.name
        present = (target / "config.pbtxt").is_file()
        if present and not versions:
            yield f"{model.name}: already in {volume}, left as it is"
            continue
        try:
            target.mkdir(exist_ok=True)
            yield from _copy_folders(model, target)
            for path in sorted(model.iterdir()):  # config.pbtxt last: with it the folder becomes a model
                if path.is_file() and path.name != "config.pbtxt" and not (target / path.name).exists():
                    _copy_file(path, target)
            if not present:
                _copy_file(model / "config.pbtxt", target)
        except OSError as error:
            place = error.filename or target
            raise SeedError(f"cannot write {place}: {error.strerror}. Is the volume full or read-only?") from error


def _copy_folders(model: Path, target: Path) -> Iterator[str]:
    """Versions, and what the model's configuration names (warm-up data); hidden folders are no one's business."""
    for folder in sorted(path for path in model.iterdir() if path.is_dir() and not path.name.startswith(".")):
        final, staged = target / folder.name, target / f"{STAGED}{folder.name}"
        if final.exists():
            continue
        if (target / f"{WITHDRAWN}{folder.name}").exists():
            yield f"{model.name}: version {folder.name} was rolled back in {target}, not copied"
            continue
        shutil.rmtree(staged, ignore_errors=True)
        try:
            shutil.copytree(folder, staged, copy_function=shutil.copyfile)
            staged.rename(final)
        except shutil.Error as error:
            raise OSError(0, "; ".join(str(reason) for *_, reason in error.args[0]), str(target)) from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        if folder.name.isdigit():
            yield f"{model.name}: version {folder.name} copied"


def _copy_file(path: Path, folder: Path) -> None:
    staged = folder / f"{STAGED}{path.name}"
    try:
        shutil.copyfile(path, staged)
        staged.rename(folder / path.name)
    finally:
        staged.unlink(missing_ok=True)


def main() -> int:
    """Exit code 0 when the volume holds every model, 1 with a message otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("volume", type=Path)
    parser.add_argument("--versions", action="store_true", help="also add versions to models that the volume has")
    args = parser.parse_args()
    try:
        for line in seed(args.source, args.volume, versions=args.versions):
            sys.stdout.write(f"seed: {line}\n")
    except (SeedError, OSError) as error:
        sys.stderr.write(f"seed: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
