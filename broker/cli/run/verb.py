"""``brokerctl run``: a program in a sandbox, with its window on this desktop."""

from __future__ import annotations

import re

import rich_click as click

from broker.cli.completion import sandboxes
from broker.cli.run.options import (
    StreamWords,
    command_after_dashes,
    options_of_changes,
    options_of_streams,
)
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.launch_changes import LaunchChanges
from policy.limits import OPEN_FILES

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_X11_ELSEWHERE = (
    "--x11 requires --bwrap; for the box of a record, set 'x11 = true' in [window]; "
    "for a machine, add Xwayland to its image"
)


@click.command("run", context_settings={"allow_interspersed_args": False})
@click.argument("sandbox", metavar="SANDBOX", required=False, shell_complete=sandboxes)
@click.argument("command_words", metavar="[-- COMMAND…]", nargs=-1)
@click.option(
    "-d", "--detach", is_flag=True, help="Return as soon as a window is shown."
)
@click.option("--no-window", is_flag=True, help="Do not wait for a window.")
@click.option(
    "--bwrap",
    is_flag=True,
    help="Run COMMAND, a program of this machine, in a box without a record.",
)
@click.option("--x11", is_flag=True, help="Also allow X11 programs in a --bwrap box.")
@click.option(
    "--open-files",
    type=click.IntRange(*OPEN_FILES),
    help="Open files of each program in a --bwrap box [default: 700].",
)
@click.option(
    "--flatpak",
    metavar="APP",
    help="Run the installed Flatpak application APP with ARGUMENTS.",
)
@click.option(
    "--root",
    type=click.Choice(["host"]),
    help="Run COMMAND, a program of this machine, in its own micro VM.",
)
@options_of_changes
@options_of_streams
def command(
    sandbox: str | None,
    command_words: tuple[str, ...],
    *,
    detach: bool,
    no_window: bool,
    bwrap: bool,
    x11: bool,
    open_files: int | None,
    flatpak: str | None,
    root: str | None,
    words: StreamWords,
    changes: LaunchChanges,
) -> None:
    """Run COMMAND [default: the record's command] in SANDBOX.

    SANDBOX is the name of a record or of a running sandbox; a running machine then runs a
    second program.  A broker is started if none is running.  The command waits for the program
    and exits with its exit code.

    Of a record of class 'disposable', each run starts a new sandbox with a number in its
    name (web-1234); what it writes is removed when it ends, and a second program in it is
    'brokerctl exec web-1234'.  A record of class 'persistent' has one sandbox and keeps
    its home.  'brokerctl get SANDBOX class' shows which it is.

    Standard input is passed to COMMAND.  If it is a terminal, COMMAND has a terminal,
    too, and receives Ctrl-C; otherwise Ctrl-C ends the run.

    With --bwrap, COMMAND is a program of this machine that runs in its own box without a
    record or a network.  In your home, it can read only files that are named as its
    arguments.

    With --flatpak, APP is an application ID.  The record with this launch.app is used; if
    none exists, a temporary record is used.

    With --root host, COMMAND is a program of this machine that runs in a disposable
    micro VM, whose /usr is a read-only copy of this machine's.  The record 'host' is
    written if it does not exist.
    """
    if root and (bwrap or flatpak is not None):
        raise click.UsageError("--root cannot be used with --bwrap or --flatpak")
    changed = bool(changes)
    # Late: the help of this verb needs none of it.
    from broker.cli.run import request
    from broker.ipc.control.api import RunRequest

    if flatpak is not None:
        if bwrap or detach or changed:
            others = "--bwrap, --detach, --memory, --cpus, --network and --image"
            raise click.UsageError(f"{others} cannot be used with --flatpak")
        request.run_flatpak(flatpak, [*filter(None, [sandbox]), *command_words], words)
    if not bwrap and (x11 or open_files):
        other = (
            "--open-files requires --bwrap; for the box of a record, run 'brokerctl "
            f"set SANDBOX launch.open_files {open_files or ''}'"
        )
        raise click.UsageError(_X11_ELSEWHERE if x11 else other)
    if sandbox is None:
        raise _missing("--bwrap" if bwrap else f"--root {root}" if root else "")
    if root:
        sandbox, command_words = request.on_host(root, sandbox, command_words)
    if bwrap:
        request.run_bwrap(
            [sandbox, *command_words],
            words,
            detach=detach,
            changed=changed,
            x11=x11,
            open_files=open_files,
        )
    argv = command_after_dashes(command_words)
    if argv and _ADDRESS.match(argv[0]):
        raise RefusedError(
            f"{printable(argv[0], 200)} is an address, and 'run' takes a program",
            hint=f"to open it there, run 'brokerctl open --in {sandbox} ADDRESS'; to "
            f"start its program with it, run 'brokerctl run {sandbox} -- "
            "PROGRAM ADDRESS'",
        )
    held = request.held_record(sandbox)
    if held is not None:
        request.run_held(held, argv, words, detach=detach, changed=changed)
    tty = words.wants_tty(argv is not None and not detach)
    wanted = RunRequest(
        record=sandbox,
        argv=argv,
        window=not no_window and not (tty and argv is not None),
        display=not no_window,
        wait=not detach,
        **words.fields(tty=tty, stdin=not detach),
        memory_mib=changes.memory_mib,
        cpus=changes.cpus,
        network=changes.network,
        image=changes.image,
    )
    request.run_request(wanted, words)


def _missing(option: str) -> click.UsageError:
    """Return the error of a call without arguments; ``option`` needs no record."""
    if option:
        return click.UsageError(
            f"COMMAND is missing: brokerctl run {option} -- COMMAND…"
        )
    return click.UsageError("Missing argument 'SANDBOX'.")
