"""Damaged ROOT files, from fixed seeds, through `triton-fpga tag`: a typed error each, or a whole output.

`python -m tests.e2e.long root --count 2000` runs for as long as asked; the test runs a few.
"""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from pathlib import Path

import awkward as ak
import numpy as np
import uproot

from sonic_client.errors import ClientError
from sonic_client.options import Options
from sonic_client.tag_file import Job, run_job
from tests.clients.fake_server import FakeTriton, serving
from tests.clients.jets import narrow_jets
from tests.e2e.fuzzing import mutate

EVENTS = 12


def sound(path: Path, compression: uproot.compression.Compression | None) -> bytes:
    """The bytes of a ROOT file with jets and a branch to keep."""
    jets = narrow_jets(EVENTS, seed=5, most=6)
    columns = {f"constituent_{name}": jets[name] for name in jets.fields} | {"jet_pt": np.arange(float(EVENTS))}
    with uproot.recreate(path, compression=compression) as file:
        file.mktree("Events", {name: ak.Array(values).type.content for name, values in columns.items()}).extend(columns)
    return path.read_bytes()


def tag_damaged(folder: Path, count: int, seed: int) -> Counter[str]:
    """Tag `count` damaged files; how many ended how. Raises what is not a ClientError, and AssertionError."""
    rng = np.random.default_rng(seed)
    sources = [sound(folder / "sound.root", kind) for kind in (None, uproot.ZLIB(4))]
    seen: Counter[str] = Counter()
    path, out = folder / "damaged.root", folder / "out.parquet"
    job = Job(path, out, "", "Events", keep=("jet_pt",), bad="mask", chunk=5)
    with serving(FakeTriton()) as (_, address), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            path.write_bytes(mutate(sources[number % 2], rng))
            try:
                summary = run_job(
                    Job(job.source, job.output, f"grpc://{address}/top_tagger", job.tree, keep=job.keep, bad=job.bad,
                        chunk=job.chunk, options=Options(deadline=20, warm_up=5))
                )  # fmt: skip
            except ClientError as error:
                seen[type(error).__name__] += 1
                assert not out.exists(), f"case {number} of seed {seed}: half an output"
            except BaseException:
                shutil.copy(path, "failed.root")
                raise
            else:
                seen["tagged"] += 1
                assert len(ak.from_parquet(out)) == summary.events, f"case {number} of seed {seed}"
                out.unlink()
            shutil.rmtree(job.parts, ignore_errors=True)
            left = {entry.name for entry in folder.iterdir()} - {"damaged.root", "sound.root"}
            assert not left, f"case {number} of seed {seed}: {left} is left"
    return seen
