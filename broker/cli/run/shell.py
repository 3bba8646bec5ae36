"""``brokerctl shell``: a login shell in a sandbox."""

from __future__ import annotations

import rich_click as click

from broker.cli.completion import sandboxes
from broker.cli.run.connect import ask
from broker.cli.run.options import StreamWords, options_of_streams
from broker.cli.run.start import broker_runs
from broker.cli.run.verb import run_request
from broker.control.api import NotFoundError, RunRequest
from broker.core.escape import printable
from broker.core.names import sandboxes_named
from broker.core.paths import find_paths

_LOGIN_SHELL = ["/bin/sh", "-c", 'exec "${SHELL:-/bin/sh}" -l']
"""The shell of the guest's user, which only the guest knows."""


@click.command("shell")
@click.argument("sandbox", shell_complete=sandboxes)
@options_of_streams
def command(sandbox: str, *, words: StreamWords) -> None:
    """Open a shell in SANDBOX; a record's sandbox that does not run is started.

    It may open windows.  Ctrl-D ends it.  Standard input that is not a terminal
    is what the shell reads: 'brokerctl shell demo < script'.

    Exit code: the shell's own.
    """
    tty = words.wants_tty(by_default=True)
    request = RunRequest(
        record=_running_or_record(sandbox),
        argv=_LOGIN_SHELL,
        window=False,
        display=True,
        wait=True,
        **words.fields(tty=tty, stdin=True),
    )
    run_request(request, words)


def _running_or_record(name: str) -> str:
    """Return the one sandbox that runs of a record, or the name as it is."""
    if not broker_runs(find_paths()):
        return name
    status = ask(lambda client: client.status())
    found = sandboxes_named(name, [(s.name, s.record) for s in status.sandboxes])
    if len(found) > 1:
        raise NotFoundError(
            f"'{printable(name, 60)}' has {len(found)} sandboxes",
            hint=f"name one of them: {', '.join(found)}",
        )
    return found[0] if found else name
