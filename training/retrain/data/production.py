"""Parallel, resumable production of jets or pixel maps: many processes, one file a chunk, each with its own seed."""

import json
import multiprocessing
import os
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path

from retrain.data.files import write_jets, write_maps
from retrain.data.jets import JetSettings, generate_chunk
from retrain.data.neutrinos import NeutrinoSettings, generate_maps
from retrain.data.pixelmaps import CLASSES
from retrain.data.pythia import PROCESSES, Process
from retrain.errors import DataError

JETS_PER_CHUNK = 2000
SETTINGS_FILE = "production.json"
_FILE = re.compile(r"(?P<process>\w+)-seed(?P<seed>\d+)-chunk(?P<index>\d+)-jets(?P<jets>\d+)(?P<suffix>\.\w+)")


@dataclass(frozen=True)
class Chunk:
    """One file to make."""

    process: str
    index: int
    jets: int
    path: Path


@dataclass(frozen=True)
class Production:
    """A production of `jets_per_class` jets of each class into one folder.

    The folder remembers seed and settings: a second run with the same ones makes only what is missing, and asking for
    more jets later adds chunks, and makes the last one anew where it was not full; a run with others is refused.
    """

    folder: Path
    jets_per_class: int
    seed: int
    processes: tuple[str, ...] = PROCESSES
    suffix: str = ".parquet"
    jets_per_chunk: int = JETS_PER_CHUNK
    settings: JetSettings | NeutrinoSettings = field(default_factory=JetSettings)

    def chunks(self) -> list[Chunk]:
        """All chunks, classes alternating so that a stopped production stays balanced."""
        if self.jets_per_class <= 0 or self.jets_per_chunk <= 0:
            raise DataError(f"expected a positive number of jets, got {self.jets_per_class}")
        chunks = []
        for index in range(-(-self.jets_per_class // self.jets_per_chunk)):
            jets = min(self.jets_per_chunk, self.jets_per_class - index * self.jets_per_chunk)
            for process in self.processes:
                name = f"{process}-seed{self.seed}-chunk{index:05d}-jets{jets}{self.suffix}"
                chunks.append(Chunk(process, index, jets, self.folder / name))
        return chunks

    def made(self) -> dict[tuple[str, int], dict[int, Path]]:
        """The files of this seed in the folder, by class and index of the chunk, and by their number of jets."""
        found: dict[tuple[str, int], dict[int, Path]] = {}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            name = _FILE.fullmatch(path.name)
            if name is not None and int(name["seed"]) == self.seed and name["suffix"] == self.suffix:
                found.setdefault((name["process"], int(name["index"])), {})[int(name["jets"])] = path
        return found

    def missing(self) -> list[Chunk]:
        """The chunks of which there is no file yet with as many jets, or more."""
        made = self.made()
        return [chunk for chunk in self.chunks() if max(made.get((chunk.process, chunk.index), {0})) < chunk.jets]

    def tidy(self) -> list[Path]:
        """Remove files whose jets another one of the same chunk holds, too; returns those that stay."""
        kept = []
        for files in self.made().values():
            *fewer, most = sorted(files)
            for jets in fewer:
                files[jets].unlink(missing_ok=True)
            kept.append(files[most])
        return sorted(kept)

    def claim_folder(self) -> None:
        """Make the folder, or check that it was made with the same seed, settings and format."""
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"seed": self.seed, "jets_per_chunk": self.jets_per_chunk, "settings": asdict(self.settings)}
        path = self.folder / SETTINGS_FILE
        if not path.exists():
            path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            return
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path}: not readable ({error}); use another folder") from error
        if known != record:
            raise DataError(f"{path}: the folder holds jets of another seed or other settings; use another folder")
        for file in self.folder.iterdir():
            name = _FILE.fullmatch(file.name)
            if name is not None and name["suffix"] != self.suffix:
                raise DataError(f"{file}: not {self.suffix}; in two formats jets would count twice; use another folder")


def produce(
    production: Production, workers: int | None = None, progress: Callable[[int], None] = lambda _: None
) -> int:
    """Make all missing chunks in `workers` processes; `progress` is told the jets of each finished chunk.

    Returns the number of jets made now.
    """
    production.claim_folder()
    production.tidy()
    missing = production.missing()
    made = 0
    # Spawned, not forked: Pythia and FastJet hold state that a fork of a threaded process may break.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=context) as pool:
        futures = {pool.submit(_make, chunk, production.seed, production.settings): chunk for chunk in missing}
        try:
            for future in as_completed(futures):
                future.result()
                production.tidy()
                made += futures[future].jets
                progress(futures[future].jets)
        except BrokenProcessPool as error:
            raise DataError(
                "a process that made events has died, for want of memory perhaps; the same command goes on where it was"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return made


def neutrino_production(
    folder: Path,
    maps_per_class: int,
    seed: int,
    classes: tuple[str, ...] = CLASSES,
    suffix: str = ".parquet",
    maps_per_chunk: int = JETS_PER_CHUNK,
    settings: NeutrinoSettings | None = None,
) -> Production:
    """A production of pixel maps; what is said of jets holds for them."""
    return Production(folder, maps_per_class, seed, classes, suffix, maps_per_chunk, settings or NeutrinoSettings())


def _make(chunk: Chunk, seed: int, settings: JetSettings | NeutrinoSettings) -> None:
    if isinstance(settings, NeutrinoSettings):
        write_maps(chunk.path, generate_maps(chunk.process, chunk.jets, seed, chunk.index, settings))
    else:
        process: Process = "top" if chunk.process == "top" else "qcd"
        write_jets(chunk.path, generate_chunk(process, chunk.jets, seed, chunk.index, settings))
