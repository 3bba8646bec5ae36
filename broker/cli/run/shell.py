"""``brokerctl shell``: a login shell in a sandbox."""

from __future__ import annotations

import rich_click as click

from broker.cli.completion import sandboxes
from broker.cli.run.connect import running_or_record
from broker.cli.run.options import StreamWords, options_of_streams
from broker.ipc.control.api import RunRequest

_LOGIN_SHELL = ["/bin/sh", "-c", 'exec "${SHELL:-/bin/sh}" -l']
"""The shell of the guest's user, which only the guest knows."""


@click.command("shell")
@click.argument("sandbox", shell_complete=sandboxes)
@options_of_streams
def command(sandbox: str, *, words: StreamWords) -> None:
    """Open a shell in SANDBOX, which is started if it is not running.

    Programs in the shell may open windows.  Ctrl-D ends the shell.  If standard input is
    not a terminal, the shell reads commands from it: 'brokerctl shell demo < script'.

    Exit code: the exit code of the shell.
    """
    tty = words.wants_tty(by_default=True)
    request = RunRequest(
        record=running_or_record(sandbox),
        argv=_LOGIN_SHELL,
        window=False,
        display=True,
        wait=True,
        **words.fields(tty=tty, stdin=True),
    )
    from broker.cli.run.request import run_request  # late: not for the help

    # Builds an absent image, starts the broker, creates the record's domain or machine.
    run_request(request, words, slow_only=True)
