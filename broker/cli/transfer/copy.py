"""``brokerctl cp``: files to a sandbox, from one, or between two."""

from __future__ import annotations

import posixpath
import sys
from collections.abc import Iterable
from pathlib import Path

import rich_click as click
import trio
from typing_extensions import override

from broker.cli import render
from broker.cli.completion import places
from broker.cli.policy.records import read_records
from broker.cli.run.connect import (
    ask_status,
    broker_runs,
    offline_paths,
    open_client,
    running_or_record,
)
from broker.cli.run.progress import Steps
from broker.cli.sandboxes.ended_disposables import is_disposable_of
from broker.cli.transfer.arrivals import Arrivals
from broker.cli.transfer.named_files import writable_places
from broker.cli.transfer.open_in import send_request
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.names import take_sandbox_name
from broker.core.paths import find_paths
from broker.ipc.control.api import OpenRequest, RunItem, RunRequest
from broker.ipc.control.methods import RUN
from policy.rules.world import DISPOSABLE
from shims.files.protocol import EXIT_LEFT_OUT


@click.command("cp")
@click.argument(
    "sources", nargs=-1, required=True, metavar="SOURCE…", shell_complete=places
)
@click.argument("target", metavar="TARGET", shell_complete=places)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def command(sources: tuple[str, ...], target: str, *, quiet: bool) -> None:
    """Copy files and directories; SANDBOX:PATH names a file in a sandbox.

    If the name of a file on this machine contains a colon, write it as ./NAME:REST.

    TARGET is 'SANDBOX:' or a directory on this machine, such as '.'.  The name of a record
    means its running sandbox, or, if none is running, a new one, unless it is disposable.  In a sandbox, files arrive
    in ~/Incoming/SOURCE.  Copies never replace a file, and are plain files: no links, no
    set-user-ID bit, not executable.  In SANDBOX:PATH, '~/' is the home in the sandbox.
    Copies from a sandbox need a rule for vitrail.FileCopy; copies from you need no rule,
    but a rule with the source @adminvm may deny them.

    Exit code: 0 done, 1 a copy was refused or interrupted, 3 done, but links, devices,
    pipes and sockets were left out.
    """
    found = {_sandbox_of(source) for source in sources}
    if len(found) != 1:
        raise click.UsageError(
            "all SOURCEs must be on this machine or in the same sandbox"
        )
    (source,) = found
    here = _directory_here(target)
    where = "" if here else str(take_sandbox_name(target.removesuffix(":")))
    if source == where:
        raise click.UsageError("SOURCE and TARGET are in the same place")
    if not source:
        if where:
            where = _receiver(where)
        paths = [_existing(path) for path in sources]
        request = OpenRequest(copy=paths, sandbox=where)
        kept = trio.run(send_request, request, Steps(quiet=quiet))
        render.note(f"copied to ~/Incoming/desktop in {printable(kept.sandbox, 60)}")
        if kept.detail:
            render.note(kept.detail)
            sys.exit(EXIT_LEFT_OUT)
        return
    words = [_in_sandbox(source) for source in sources]
    argv = ["vitrail-copy", "--to", where or "@adminvm", "--", *words]
    steps = _Steps(quiet=quiet, slow_only=True)
    arrivals = Arrivals(here, writable_places(offline_paths())) if here else None
    code = trio.run(_from_sandbox, running_or_record(source), argv, steps)
    if steps.denied:
        render.note(
            "  hint: to see the rule, and a line that would allow the copy, run "
            f"'brokerctl policy explain vitrail.FileCopy {source} {where or 'you'}'"
        )
    elif code in {0, EXIT_LEFT_OUT} and arrivals is not None:
        names = [posixpath.basename(word.rstrip("/")) for word in words]
        for place in arrivals.move(steps.sandbox or source, names):
            render.note(f"copied to {printable(str(place), 400)}")
    sys.exit(code)


def _receiver(name: str) -> str:
    """Return the sandbox that gets the user's copy: the one of this name at work.

    Raises RefusedError for a disposable that has ended, or that would be started for
    the copy alone: it ends with the program that keeps it.
    """
    found = running_or_record(name)
    records = read_records(find_paths()).records
    record = records.get(name)
    if found != name or (record and record.host.sandbox_class != DISPOSABLE):
        return found
    of = name if record else _record_of_ended(name, records)
    if not of or (found in _running()):
        return found
    what = "is not running, and a new one would end with the copy"
    raise RefusedError(
        f"'{name}' {what if record else 'has ended, and all that was in it is gone'}",
        hint=f"start it first with 'brokerctl run {of}', or use 'brokerctl open --in "
        f"{of} FILE'",
    )


def _running() -> set[str]:
    if not broker_runs(find_paths()):
        return set()
    return {str(sandbox.name) for sandbox in ask_status().sandboxes}


def _record_of_ended(name: str, records: Iterable[str]) -> str:
    """Return the record whose disposables have names like this one, or nothing."""
    return next((one for one in records if is_disposable_of(name, one)), "")


def _existing(path: str) -> str:
    """Return a path here as absolute; raises RefusedError before a machine boots."""
    full = Path(path).absolute()
    if not full.exists():
        raise RefusedError(
            f"cannot copy {path}: the file does not exist or is not accessible",
            hint="check the path; for a file in a sandbox, use SANDBOX:PATH",
        )
    return str(full)


def _in_sandbox(source: str) -> str:
    """Return the PATH of SANDBOX:PATH; its program reads it from the home there."""
    path = source.partition(":")[2]
    path = path.removeprefix("~/") or "."
    if posixpath.basename(path.rstrip("/")) in {"", ".", ".."}:
        raise click.UsageError("PATH of SANDBOX:PATH must name a file or directory")
    return path


def _directory_here(target: str) -> Path | None:
    """Return the directory here that TARGET names; None for 'SANDBOX:'."""
    name, colon, path = target.partition(":")
    if colon and "/" not in name:
        if path or not name:
            raise click.UsageError(_bad_target(target))
        return None
    if not Path(target).is_dir():
        raise click.UsageError(_bad_target(target))
    return Path(target)


def _bad_target(target: str) -> str:
    """Return the error text for a TARGET that is not valid."""
    name, colon, path = target.partition(":")
    if colon and path and "/" not in name:
        return (
            f"TARGET must be '{name}:' without a path: files arrive in ~/Incoming of "
            "the sandbox, in a directory with the name of their source"
        )
    return "TARGET must be 'SANDBOX:', or a directory on this machine, such as '.'"


class _Steps(Steps):
    """Notes whether the program in the sandbox reports that a rule denied it."""

    denied = False
    sandbox = ""
    """Where the program runs, once it does; of a disposable, its name."""

    @override
    async def item(self, item: RunItem) -> None:
        if item.started is not None:
            self.sandbox = str(item.started.sandbox)
        await super().item(item)

    @override
    def output(self, untrusted_data: bytes, *, stderr: bool = False) -> None:
        """Print output of the program, and note a denial in it."""
        # It chooses a hint and nothing else, so a false report does no harm.
        self.denied = self.denied or b": denied: " in untrusted_data
        super().output(untrusted_data, stderr=stderr)


def _sandbox_of(source: str) -> str:
    """Return the sandbox of SANDBOX:PATH; empty for a path here.

    As with scp(1) a word decides by its form, and not by the files that are here:
    a file that a sandbox has sent under the name ``work:notes`` is not taken for a file
    of the sandbox 'work', nor the other way round.
    """
    name, colon, _ = source.partition(":")
    if not colon or "/" in name:
        return ""
    try:
        return str(take_sandbox_name(name))
    except RefusedError as error:
        raise RefusedError(
            error.message,
            hint=f"{error.hint}; for a file on this machine, use './{source}'",
        ) from error


async def _from_sandbox(source: str, argv: list[str], steps: Steps) -> int:
    """Have the broker run the sandbox's copy program, as if the user had typed it."""
    request = RunRequest(record=source, argv=argv, window=False, wait=True)

    async def show(item: RunItem) -> None:
        await steps.item(item)

    async with steps.shown(), open_client() as client:
        last = await client.call(RUN, request, show)
    code = last.exited.code if last.exited is not None else 1
    return code if code >= 0 else 128 - code
