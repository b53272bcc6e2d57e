"""Shrink an environment that pip filled, without losing anything: run in the images' build stage.

Wheels cannot hold symbolic links, so Intel's OpenCL driver comes as several whole copies of each library; Triton's
wheel has a stub for every Python. Copies become links to the longest name, other Pythons' stubs go.
"""

import hashlib
import shutil
import sys
from collections import defaultdict
from pathlib import Path

SMALLEST = 64 * 1024


def link_copies(folder: Path) -> int:
    """Replace equal files of one folder by relative links to the one with the longest name; returns the bytes saved."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink() and path.stat().st_size >= SMALLEST:
            by_size[path.stat().st_size].append(path)
    saved = 0
    for size, paths in by_size.items():
        by_content: dict[bytes, list[Path]] = defaultdict(list)
        for path in paths if len(paths) > 1 else ():
            with path.open("rb") as stream:
                by_content[hashlib.file_digest(stream, "sha256").digest()].append(path)
        for equal in by_content.values():
            kept, *copies = sorted(equal, key=lambda path: (-len(path.name), path.name))
            for copy in copies:
                copy.unlink()
                copy.symlink_to(kept.name)
                saved += size
    return saved


def remove_other_stubs(environment: Path) -> int:
    """Remove Triton's stubs for other Pythons than this one; returns the bytes saved."""
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    saved = 0
    for stub in environment.glob("lib/python3*/site-packages/pytriton/tritonserver/python_backend_stubs/*"):
        if stub.name != own:
            saved += sum(path.stat().st_size for path in stub.rglob("*") if path.is_file())
            shutil.rmtree(stub)
    return saved


def main(environment: Path) -> int:
    """Shrink and say by how much."""
    saved = link_copies(environment / "lib") + remove_other_stubs(environment)
    sys.stdout.write(f"{saved / 1e6:.0f} MB saved in {environment}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
