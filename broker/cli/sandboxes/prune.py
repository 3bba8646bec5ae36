"""``brokerctl prune``: remove unused files."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.cli.images.installed import remove_image
from broker.cli.sandboxes.df import IMAGE, PARENT, Stored, removable, stored
from broker.core.errors import RefusedError
from broker.core.files.trees import remove_tree
from broker.core.paths import Paths, find_paths


@click.command("prune")
@click.option("--images", is_flag=True, help="Also remove images that no record uses.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, images: bool, yes: bool, as_json: bool) -> None:
    """Remove logs and parent machines of sandboxes that no longer exist.

    Homes are kept; to remove one, run 'brokerctl sandbox remove'.
    """
    paths = find_paths()  # of a broker that cannot be found, what runs is not known
    unused = removable(stored(paths), images=images)
    if not unused:
        if as_json:
            render.json_line([])
        else:
            render.note("there is nothing to remove")
        return
    if not as_json:
        rows = [(one.kind, one.name, render.size(one.bytes)) for one in unused]
        render.table(["WHAT", "NAME", "ON DISK"], rows)
    if not yes:
        if not sys.stdin.isatty():
            raise RefusedError(
                "cannot ask for confirmation: standard input is not a terminal",
                hint="pass --yes to confirm",
            )
        click.confirm("Remove these?", abort=True, err=True)
    for one in unused:
        _remove(paths, one)
    if as_json:
        render.json_line([asdict(one) for one in unused])
    else:
        render.note(f"removed {render.size(sum(one.bytes for one in unused))}")


def _remove(paths: Paths, one: Stored) -> None:
    """Remove one unused thing from the disk."""
    if one.kind == IMAGE:
        remove_image(paths, one.name)
    elif one.kind == PARENT:
        remove_tree(Path(one.path))
    else:
        shutil.rmtree(one.path, ignore_errors=True)
