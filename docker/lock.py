"""Write the lock files of the images: every package with its version and the hash of the one file that is installed.

    python docker/lock.py            resolve again, keeping to constraints.txt, and rewrite docker/*.lock
    python docker/lock.py --check    only compare: exit code 1 when a lock is out of step with pyproject.toml or
                                     constraints.txt

Resolving needs pip 23 and a package index; `--check` needs neither.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]


@dataclass(frozen=True)
class Lock:
    """One lock file: what is asked for, and the Python that it is for."""

    name: str
    python: str
    extras: tuple[str, ...] = ()
    """Extras of the project, whose requirements are locked; the project itself is built from the checkout."""
    packages: tuple[str, ...] = ()
    """What the image needs besides."""
    free: tuple[str, ...] = ()
    """Packages that constraints.txt, which is for the wheel's Triton, does not bind here."""

    @property
    def wanted(self) -> list[str]:
        """All requirements."""
        return [*(requirements(self.extras) if self.extras else ()), *self.packages]


TORCH = ("torch==2.14.1", "torchvision==0.29.1")
"""What the shipped models were trained with."""
JUPYTER = ("jupyterlab>=4.4", "ipywidgets>=8")
LOCKS = (
    Lock("build", "3.11", packages=("hatchling>=1.27",)),
    Lock("server-py311", "3.11", extras=("server",)),
    Lock("server-py312", "3.12", extras=("plugin",), free=("numpy",)),  # for NVIDIA's image, which has a Triton
    Lock("notebooks-light", "3.11", extras=("engine", "client", "plots"), packages=JUPYTER),
    Lock("notebooks-training", "3.11", extras=("training",), packages=(*TORCH, *JUPYTER)),
)


def requirements(extras: tuple[str, ...]) -> list[str]:
    """The requirements of the project with these extras, its references to itself resolved."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: list[str] = list(project["dependencies"])
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{re.escape(project['name'])}\[([^\]]+)\]", line)
            found += requirements(tuple(own.group(1).split(","))) if own else [line]
    return list(dict.fromkeys(found))


def resolve(lock: Lock) -> str:
    """The text of a lock file, as pip resolves it now."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text("\n".join(lock.wanted) + "\n")
        report = Path(folder) / "report.json"
        bounds = Path(folder) / "constraints.txt"
        lines = (ROOT / "constraints.txt").read_text().splitlines()
        bounds.write_text("\n".join(line for line in lines if line.partition("==")[0] not in lock.free) + "\n")
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", report,
             "--target", folder, "--only-binary=:all:", f"--python-version={lock.python}", "--implementation=cp",
             *(f"--platform={platform}" for platform in PLATFORMS),
             "--constraint", bounds, "--requirement", wanted],
            check=True, env={**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""},
        )  # fmt: skip
        installed = json.loads(report.read_text())["install"]
    lines = [f"# Python {lock.python}, Linux x86_64. Written by docker/lock.py; do not edit."]
    for entry in sorted(installed, key=lambda entry: _key(entry["metadata"]["name"])):
        metadata, archive = entry["metadata"], entry["download_info"]["archive_info"]
        lines.append(f"{_key(metadata['name'])}=={metadata['version']} --hash=sha256:{archive['hashes']['sha256']}")
    return "\n".join(lines) + "\n"


def pinned(text: str) -> dict[str, str]:
    """The version of each package in a lock file or in constraints.txt."""
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^;,\s]+)", text, re.M)
    return {_key(name): version for name, version in found}


def out_of_step(wanted: list[str], held: dict[str, str], constraints: dict[str, str]) -> list[str]:
    """What a lock that holds these versions lacks or has otherwise: requirements, and versions of constraints.txt."""
    found = []
    for line in wanted:
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?(?:==([^;,\s]+))?", line)
        name, version = match.groups() if match else ("", None)
        locked = held.get(_key(name))
        if locked is None or version not in (None, locked):
            found.append(line)
    found += [
        f"{name}=={constraints[name]}"
        for name, version in held.items()
        if constraints.get(name, version) != version and f"{name}=={constraints[name]}" not in found
    ]
    return found


def constraints_of(lock: Lock) -> dict[str, str]:
    """The versions of constraints.txt that bind a lock."""
    held = pinned((ROOT / "constraints.txt").read_text())
    return {name: version for name, version in held.items() if name not in lock.free}


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """Write or check every lock; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with pyproject.toml, write nothing")
    parser.add_argument("--extras", action="store_true", help="only print the names of the project's extras")
    parser.add_argument("names", nargs="*", help="only these locks")
    args = parser.parse_args()
    if args.extras:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        sys.stdout.write("\n".join(project["optional-dependencies"]) + "\n")
        return 0
    failed = False
    for lock in LOCKS:
        if args.names and lock.name not in args.names:
            continue
        if args.check:
            held = pinned((ROOT / "docker" / f"{lock.name}.lock").read_text())
            for line in out_of_step(lock.wanted, held, constraints_of(lock)):
                sys.stderr.write(f"docker/{lock.name}.lock does not hold {line}: run python docker/lock.py\n")
                failed = True
            continue
        (ROOT / "docker" / f"{lock.name}.lock").write_text(resolve(lock))
        sys.stdout.write(f"docker/{lock.name}.lock written\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
