"""Show the versions in a model repository, with what their model cards say they reach."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SHOWN = ("auc", "auc_float", "auc_baseline", "rejection_30", "rejection_30_float", "rejection_30_baseline")


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga versions`."""
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(args: argparse.Namespace) -> int:
    """List all versions of all models; the newest of each is the one that is served."""
    from rich.console import Console
    from rich.table import Table

    from retrain.errors import PublishError
    from retrain.versions import versions

    if not args.repository.is_dir():
        raise PublishError(f"{args.repository}: no such model repository")
    rows = []
    for folder in sorted(path for path in args.repository.iterdir() if path.is_dir()):
        known = versions(args.repository, folder.name)
        for version in known:
            card = version.card
            rows.append(
                {
                    "model": version.model,
                    "version": version.number,
                    "served": version is known[-1],
                    "metrics": card.get("metrics", {}),
                    "created": card.get("created"),
                    "git_revision": card.get("git_revision"),
                }
            )
    if args.json:
        print(json.dumps(rows))
        return 0
    table = Table()
    for heading in ("model", "version", "served", "created", *SHOWN):
        table.add_column(heading)
    for row in rows:
        shown = [_with_error(row["metrics"], name) for name in SHOWN]
        table.add_row(row["model"], str(row["version"]), "yes" if row["served"] else "", row["created"] or "", *shown)
    Console().print(table)
    return 0


def _with_error(metrics: dict[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    digits = 4 if name.startswith("auc") else 0
    return f"{metrics[name]:.{digits}f} ± {metrics.get(f'{name}_err', 0.0):.{digits}f}"
