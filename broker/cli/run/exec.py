"""``brokerctl exec``: run a program in a running sandbox."""

from __future__ import annotations

import rich_click as click

from broker.cli.completion import sandboxes
from broker.cli.run.connect import ask_status
from broker.cli.run.options import StreamWords, command_after_dashes, options_of_streams
from broker.core.escape import printable
from broker.core.names import sandboxes_named
from broker.ipc.control.api import RunRequest
from broker.viewer.sandboxes.named_lease import several_run
from broker.wire.faults import NotFoundError


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.argument("sandbox", shell_complete=sandboxes)
@click.argument("command_words", metavar="[--] COMMAND…", nargs=-1, required=True)
@click.option(
    "-d", "--detach", is_flag=True, help="Return as soon as the program has started."
)
@options_of_streams
def command(
    sandbox: str,
    command_words: tuple[str, ...],
    *,
    detach: bool,
    words: StreamWords,
) -> None:
    """Run COMMAND in SANDBOX, which must be running.

    The command does not wait for a window.  Standard input is passed to COMMAND; if it
    is a terminal, COMMAND has a terminal, too.

    Exit code: the exit code of COMMAND, or 1 if the sandbox is not running.
    """
    argv = command_after_dashes(command_words)
    if argv is None:
        raise click.UsageError("SANDBOX or COMMAND is missing")
    tty = words.wants_tty(not detach)
    request = RunRequest(
        record=the_running(sandbox),
        argv=argv,
        window=False,
        display=True,
        wait=not detach,
        **words.fields(tty=tty, stdin=not detach),
    )
    from broker.cli.run.request import run_request  # late: not for the help

    run_request(request, words, slow_only=True)


def the_running(name: str) -> str:
    """Query the broker for the running sandbox of a name.  Raises NotFoundError."""
    status = ask_status()
    found = sandboxes_named(name, [(s.name, s.record) for s in status.sandboxes])
    if len(found) == 1:
        return found[0]
    if found:
        raise several_run(name, found)
    shown = printable(name, 60)
    raise NotFoundError(
        f"no sandbox named '{shown}' is running",
        hint=f"to start the sandbox, run 'brokerctl run {shown} -- COMMAND'; to list "
        "the running sandboxes, run 'brokerctl status'",
    )
