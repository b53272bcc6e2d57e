"""Show the versions in a model repository, with what their model cards say they reach."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = ("auc", "auc_float", "auc_baseline", "rejection_30", "rejection_30_float", "rejection_30_baseline", "accuracy")


def register(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triton-fpga versions`."""
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(args: argparse.Namespace) -> int:
    """List all versions of all models; the newest of each is the one that is served."""
    from fpga_ops.runtime.terminal import console as make_console

    rows = version_rows(args.repository)
    if args.json:
        print(json.dumps(rows))
    else:
        make_console().print(version_table(rows))
    return 0


def version_rows(repository: Path) -> list[dict[str, Any]]:
    """All versions of all models, oldest first, as plain values."""
    from retrain.errors import PublishError
    from retrain.publishing.versions import versions

    if not repository.is_dir():
        raise PublishError(f"{repository}: no such model repository")
    rows = []
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        known = versions(repository, folder.name)
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
    return rows


def version_table(rows: list[dict[str, Any]]) -> Table:
    """The rows as a table, for a terminal or a notebook."""
    from rich.table import Table

    table = Table()
    for heading in ("model", "version", "served", "created", *SHOWN):
        table.add_column(heading)
    for row in rows:
        shown = [_with_error(row["metrics"], name) for name in SHOWN]
        table.add_row(row["model"], str(row["version"]), "yes" if row["served"] else "", row["created"] or "", *shown)
    return table


def _with_error(metrics: dict[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    digits = 4 if name.startswith(("auc", "accuracy")) else 0
    return f"{metrics[name]:.{digits}f} ± {metrics.get(f'{name}_err', 0.0):.{digits}f}"
