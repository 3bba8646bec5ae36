"""``brokerctl call``: a service of a sandbox, called by the user."""

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
    """Call SERVICE of SANDBOX with ARGUMENT, as a sandbox does by vitrail-call.

    Standard input and output are the service's.  SANDBOX is started where it does not
    run.  No rule is asked: the call is yours, and the service finds 'dom0' as its
    caller.  'brokerctl services' lists services.

    Exit code: the service's own; 127 when there is none of that name.
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
