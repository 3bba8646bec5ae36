"""``brokerctl cp``: files to a sandbox, from one, or between two."""

from __future__ import annotations

import sys
from pathlib import Path

import rich_click as click
import trio
from typing_extensions import override

from broker.cli import render
from broker.cli.completion import places
from broker.cli.open_in import send_request
from broker.cli.run.connect import open_client, running_or_record
from broker.cli.run.progress import Steps
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.names import take_sandbox_name
from broker.ipc.control.api import OpenRequest, RunItem, RunRequest
from broker.ipc.control.methods import RUN


@click.command("cp")
@click.argument(
    "sources", nargs=-1, required=True, metavar="SOURCE…", shell_complete=places
)
@click.argument("target", metavar="TARGET", shell_complete=places)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(sources: tuple[str, ...], target: str, *, quiet: bool) -> None:
    """Copy files and directories; SANDBOX:PATH is one in a sandbox.

    A file here whose name has a colon is ./NAME:REST.

    TARGET is 'SANDBOX:' or '.' (this desktop); a record's name is its sandbox that
    runs, and a new one where none runs.  They arrive in
    ~/Incoming/SOURCE there, never replace a file, and are plain files: no links,
    no set-user-ID, not executable.  What a sandbox sends needs a rule for
    vitrail.FileCopy; what you send needs none, and a rule with the source @adminvm
    may deny it.

    Exit code: 0, or 1 when something was refused or broken off.
    """
    found = {_sandbox_of(source) for source in sources}
    if len(found) != 1:
        raise click.UsageError("All SOURCEs must be in the same place.")
    (source,) = found
    if target != "." and (not target.endswith(":") or len(target) == 1):
        raise click.UsageError(_bad_target(target))
    where = "" if target == "." else str(take_sandbox_name(target.removesuffix(":")))
    if source == where:
        raise click.UsageError("SOURCE and TARGET are the same place.")
    if not source:
        if where:
            # The person's own copy is for the one at work, not for a new disposable.
            where = running_or_record(where)
        paths = [str(Path(path).absolute()) for path in sources]
        request = OpenRequest(copy=paths, sandbox=where)
        kept = trio.run(send_request, request, Steps(quiet=quiet))
        render.note(f"copied to ~/Incoming/desktop in {printable(kept.sandbox, 60)}")
        return
    words = [path.partition(":")[2] for path in sources]
    argv = ["vitrail-copy", "--to", where or "@adminvm", "--", *words]
    steps = _Steps(quiet=quiet, slow_only=True)
    code = trio.run(_from_sandbox, running_or_record(source), argv, steps)
    if steps.denied:
        render.note(
            f"  hint: 'brokerctl policy explain vitrail.FileCopy {source} "
            f"{where or '@adminvm'}' shows the rule and the line that would allow it"
        )
    elif code == 0 and not where:
        render.note("copied to ~/Incoming on this desktop")
    sys.exit(code)


def _bad_target(target: str) -> str:
    """Return the error text for a TARGET that names a directory or a file."""
    name, colon, path = target.partition(":")
    if colon and path and "/" not in name:
        return (
            f"TARGET is '{name}:' without a path: files arrive in ~/Incoming there, "
            "under the name of their source"
        )
    return (
        "TARGET is 'SANDBOX:', or '.' for this desktop, where files arrive in "
        "~/Incoming/SANDBOX"
    )


class _Steps(Steps):
    """Notes whether the program in the sandbox reports that a rule denied it."""

    denied = False

    @override
    def output(self, untrusted_data: bytes, *, stderr: bool = False) -> None:
        # It chooses a hint and nothing else, so a false report does no harm.
        self.denied = self.denied or b": denied: " in untrusted_data
        super().output(untrusted_data, stderr=stderr)


def _sandbox_of(source: str) -> str:
    """The sandbox of SANDBOX:PATH; nothing for a path here.

    As with scp(1) a word decides by its form, and not by the files that are here:
    a file that a sandbox has sent under the name ``work:notes`` is not taken for one
    of the sandbox 'work', nor the other way round.
    """
    name, colon, _ = source.partition(":")
    if not colon or "/" in name:
        return ""
    try:
        return str(take_sandbox_name(name))
    except RefusedError as error:
        raise RefusedError(
            error.message, hint=f"{error.hint}; a file here: './{source}'"
        ) from error


async def _from_sandbox(source: str, argv: list[str], steps: Steps) -> int:
    """Have the sandbox's own program ask, as if it had been typed there."""
    request = RunRequest(record=source, argv=argv, window=False, wait=True)

    async def show(item: RunItem) -> None:
        await steps.item(item)

    async with steps.shown(), open_client() as client:
        last = await client.call(RUN, request, show)
    code = last.exited.code if last.exited is not None else 1
    return code if code >= 0 else 128 - code
