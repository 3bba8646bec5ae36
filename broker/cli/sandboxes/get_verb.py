"""``brokerctl get``: the settings of a sandbox, and where each is set."""

from __future__ import annotations

import rich_click as click

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.policy.load import JSON
from broker.cli.sandboxes.set_verb import record_named, refuse_other_kinds
from broker.cli.sandboxes.settings import SETTINGS, Setting, setting_of, shown
from broker.core.escape import printable
from policy.records.model import Record


@click.command("get")
@click.argument("sandbox", shell_complete=sandboxes)
@click.argument("setting", required=False)
@JSON
def command(sandbox: str, setting: str | None, *, as_json: bool) -> None:
    """Show the settings of SANDBOX, or the one value of SETTING.

    Each line has the setting, its value, and where it is set: the file with its line,
    or that it is the default.  'brokerctl set' changes one.

    Exit code: 0 done, 1 no such record or setting, or none for its kind.
    """
    record = record_named(sandbox)
    if setting is not None:
        one = setting_of(setting)
        refuse_other_kinds(setting, one, record)
        value = shown(one, record)
        if as_json:
            render.json_line({"setting": setting, "value": value})
        else:
            print(printable(value, 1000))  # noqa: T201 - the answer
        return
    rows = [
        (name, shown(one, record), _where(one, record))
        for name, one in SETTINGS.items()
    ]
    if as_json:
        for name, value, where in rows:
            render.json_line({"setting": name, "value": value, "where": where})
        return
    render.table(["SETTING", "VALUE", "SET IN"], rows)


def _where(setting: Setting, record: Record) -> str:
    return record.places.get(setting.key) or "default"
