"""Tag many files on an existing dask cluster: every worker talks to the service itself.

usage: python dask_tagging.py SCHEDULER URL FILE.root ... --out FOLDER

The client is picklable: dask sends its settings, and every worker opens its own connection. With several servers in URL
(separated by commas) each worker spreads its requests over them. A worker that dies loses only the file it was at, and
dask gives that file to another, which goes on with the chunks that are still missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dask.distributed import Client as Dask
from dask.distributed import as_completed
from rich.console import Console
from rich.progress import track

from sonic_client.options import token_from_environment
from sonic_client.tag_file import Job, Options, Summary, run_job


def main() -> None:
    """Tag the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scheduler", help="address of the dask scheduler, or 'local' for a cluster of its own")
    parser.add_argument("url", help="triton+grpc://host:port/top_tagger")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--tree")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    options = Options(token=token_from_environment())
    jobs = [Job(file, args.out / file.name, args.url, args.tree, options=options) for file in args.files]
    # One job a worker at a time is enough: each has many requests in flight.
    with Dask(None if args.scheduler == "local" else args.scheduler) as dask:
        futures = dask.map(run_job, jobs, pure=False, retries=2)
        jets = 0
        for future in track(as_completed(futures), "Tagging", len(futures)):
            summary: Summary = future.result()
            jets += summary.tagged
    Console().print(f"{jets} jets of {len(jobs)} files tagged")


if __name__ == "__main__":
    main()
