"""``brokerctl policy starter``: write initial rules."""

from __future__ import annotations

import sys
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.cli.policy.install import put
from broker.cli.policy.records import EXAMPLES, example_text, read_records
from broker.cli.run.connect import offline_paths, systemd_runs
from broker.core.errors import RefusedError
from broker.core.paths import Paths
from policy.records.loader import FOLDER as RECORDS
from policy.rules.rulefiles import FOLDER as RULES
from policy.rules.ruleset import SUFFIX

NAME = "50-starter.policy"
_SHIPPED = EXAMPLES.parent / "starter" / NAME
_DISPOSABLES = ("web", "viewer")
"""The records whose disposables the rules name."""


@click.command("starter")
@click.option("--show", is_flag=True, help="Print the rules; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def starter(*, show: bool, as_json: bool) -> None:
    """Write initial rules, which ask before data moves between sandboxes.

    Pasting between sandboxes and sending files from a sandbox ask first; addresses and
    files open in a new disposable sandbox after a question.  The records 'web' and
    'viewer' of these sandboxes are written unless they exist, with entries in the
    application menu, and 'Open in a sandbox' comes into the menus of file managers, as
    by 'brokerctl menu file-managers'.

    Exit code: 0 done, 1 the file exists already.
    """
    if show:
        click.echo(_SHIPPED.read_text(encoding="utf-8"), nl=False)
        return
    files = install_starter(offline_paths())
    render.written_files(files, as_json=as_json)
    if not as_json:
        render.note(
            "to change the rules, run 'brokerctl policy edit "
            f"{NAME.removesuffix(SUFFIX)}'"
        )
        render.note(
            "'web' is the browser in which links of sandboxes open, and 'viewer' "
            "shows files and pictures: each time in a new machine that ends with "
            "its window; to start one yourself, run 'brokerctl run web' or "
            "'brokerctl open FILE'"
        )
        by_itself = "systemctl --user enable --now vitrail-allow"
        by_itself = by_itself if systemd_runs() else "brokerctl allow --watch"
        render.note(
            "to allow a refused call, run 'brokerctl allow'; to receive offers by "
            f"notification, run '{by_itself}'"
        )


def install_starter(paths: Paths) -> list[Path]:
    """Write the rules and the missing records; returns the files."""
    base = paths.config[0]
    target = base / RULES / NAME
    if target.exists():
        raise RefusedError(
            f"{target} already exists",
            hint="to change the file, run 'brokerctl policy edit 50-starter'",
        )
    # Late: '--show' needs none of it.
    from broker.cli.homes.backups.home_records import write_record_entry
    from broker.cli.menu.file_managers import write_file_managers

    known = read_records(paths)
    written = []
    for name in _DISPOSABLES:
        if name not in known.records and name not in known.broken:
            record = base / RECORDS / f"{name}.toml"
            text = example_text(name)
            put(record, text.encode())
            written += [record, *write_record_entry(name, record, text)]
    # Last: the rules name the records.
    put(target, _SHIPPED.read_bytes())
    return [target, *written, *write_file_managers()]


def has_rules(paths: Paths) -> bool:
    """Return whether a file of rules is in a directory of the user's or site's."""
    return any(any((base / RULES).glob(f"*{SUFFIX}")) for base in paths.config)


def offer_starter(paths: Paths) -> None:
    """Offer the rules to a user who has none: at a terminal by a question.

    Writes the rules' files if the user agrees.
    """
    if has_rules(paths):
        return
    if not sys.stdin.isatty():
        render.note(
            "there are no rules yet, so all calls between sandboxes are denied; to "
            "write rules that ask you, run 'brokerctl policy starter'"
        )
        return
    render.note("there are no rules yet; write rules that ask you (y/n)? (y)")
    if sys.stdin.readline().strip().lower() in {"", "y", "yes"}:
        for file in install_starter(paths):
            render.note(f"wrote {file}")
