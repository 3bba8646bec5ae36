"""``brokerctl call``: call a service of a sandbox as the user."""

from __future__ import annotations

import rich_click as click

from broker.cli.completion import sandboxes
from broker.cli.run.options import StreamWords
from broker.ipc.control.api import RunRequest


@click.command("call")
@click.argument("sandbox", shell_complete=sandboxes)
@click.argument("service")
@click.argument("argument", default="")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def command(sandbox: str, service: str, argument: str, *, quiet: bool) -> None:
    """Call SERVICE of SANDBOX with ARGUMENT, as vitrail-call does in a sandbox.

    Standard input and output are connected to the service.  SANDBOX is started if it is
    not running.  Rules do not apply, because the user makes the call; the caller that the
    service sees is 'dom0'.  To list services, run 'brokerctl services'.

    Exit code: the exit code of the service, or 127 if there is no such service.
    """
    words = StreamWords(tty=False, env=(), quiet=quiet, as_json=False)
    request = RunRequest(
        record=sandbox,
        service=service,
        argument=argument,
        window=False,
        display=False,
        wait=True,
        **words.fields(tty=False, stdin=True),
    )
    from broker.cli.run.request import run_request  # late: not for the help

    run_request(request, words, slow_only=True)
