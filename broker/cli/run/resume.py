"""``brokerctl resume``: let the programs of a suspended sandbox run again."""

from __future__ import annotations

import rich_click as click

from broker.cli.completion import sandboxes
from broker.cli.run.suspend import carry_out


@click.command("resume")
@click.argument("sandbox", shell_complete=sandboxes)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, sandbox: str, as_json: bool) -> None:
    """Let the programs of a suspended sandbox run again.

    A sandbox that runs is left as it is.

    Exit code: 0 done, 1 no broker is running or the sandbox does not exist, 2 usage error.
    """
    carry_out(sandbox, suspended=False, as_json=as_json)
