"""The verbs of ``brokerctl``: their table, and how an error reaches a user."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import click
from click.exceptions import Exit
from click.shell_completion import CompletionItem
from typing_extensions import override

from broker import __version__
from broker.cli import render
from broker.cli.interrupts import INTERRUPTED, reader_may_leave
from broker.cli.overview import first_verbs, overview
from broker.cli.usage import refuse_unknown_verb, report_usage
from broker.core.errors import (
    IntegrityError,
    InternalError,
    SetupError,
    UpstreamError,
    VitrailError,
)
from broker.core.escape import printable
from broker.core.files.path_errors import path_error, place_of
from broker.core.parts.absent import AbsentPartError, needed
from broker.core.paths import find_paths
from broker.ipc.control.blocking_connection import BrokerMissingError, BrokerSilentError

# Verb -> module of broker.cli that has it as ``command``.  Modules are loaded
# when the verb is used, so that 'brokerctl status' need not wait for a TOML
# parser, and 'brokerctl policy check' works where trio is broken.
GROUPS: Mapping[str, Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "Sandboxes": {
            "new": ("sandboxes.new", "Create a sandbox."),
            "get": ("sandboxes.get_verb", "Show the settings of a sandbox."),
            "set": ("sandboxes.set_verb", "Change one setting of a sandbox."),
            "list": ("sandboxes.listing", "List records and running sandboxes."),
            "run": ("run.verb", "Run a program in a sandbox."),
            "shell": ("run.shell", "Open a shell in a sandbox."),
            "exec": ("run.exec", "Run a program in a running sandbox."),
            "call": ("calls.call", "Call a service of a sandbox."),
            "services": ("calls.services", "List the services of sandboxes."),
            "stop": ("run.stop", "Stop sandboxes, or the broker."),
            "suspend": ("run.suspend", "Stop a micro VM's programs for a time."),
            "resume": ("run.resume", "Let a suspended micro VM run again."),
            "restart": (
                "machines.restart",
                "Restart the broker; machines keep running.",
            ),
            "sandbox": ("sandboxes.state", "Copy, rename, snapshot and back up homes."),
            "demo": ("run.demo", "Show an application in a micro VM."),
        },
        "Running sandboxes": {
            "status": ("sandboxes.status", "Show running sandboxes, and problems."),
            "top": ("sandboxes.top", "Show sandboxes on a live screen."),
            "tray": ("tray.tray_verb", "Show running sandboxes in the panel."),
            "manager": ("manager.manager_verb", "Show a window to manage sandboxes."),
            "windows": ("wayland.windows", "List windows and their sandboxes."),
            "network": (
                "network.flows_verb",
                "List network flows and their rules.",
            ),
            "forward": ("network.forward_verb", "Forward a local port to a sandbox."),
            "ssh-config": (
                "network.ssh_config",
                "Print ssh configuration for sandboxes.",
            ),
            "df": ("sandboxes.df", "Show used disk space."),
            "prune": ("sandboxes.prune", "Remove unused files."),
            "kill-window": ("wayland.kill_window", "Close a window."),
            "x11": ("x11.verb", "Run X11 programs on a Wayland display."),
            "logs": ("run.logs", "Show the output of a sandbox."),
            "audio": ("sound", "Show and change the sound of sandboxes."),
            "clipboard": ("clipboard", "Show or clear the clipboard; set its chords."),
            "notifications": (
                "notifications.notification_list",
                "Show notifications of sandboxes.",
            ),
            "device": ("devices.verbs", "Attach devices to sandboxes."),
            "share": (
                "folders.share",
                "Share a folder with a sandbox; list shared folders.",
            ),
            "unshare": ("folders.unshare", "End the sharing of a folder."),
            "open": ("transfer.open_in", "Open files and addresses in a sandbox."),
            "cp": ("transfer.copy", "Copy files to, from and between sandboxes."),
            "sanitize": ("transfer.sanitize", "Convert documents to harmless copies."),
        },
        "Questions and decisions": {
            "pending": ("pending", "Show pending questions."),
            "answer": ("answer", "Answer a question."),
            "allow": ("allow.allow_verb", "Allow a refused request, once or always."),
            "lockdown": (
                "menu.lockdown",
                "Stop microphones, copies and starts.",
            ),
            "grants": ("grants", "Show or revoke temporary grants."),
            "prompt": ("prompt", "Show or set the secret phrase of dialogs."),
            "policy": ("policy.verbs", "Check, explain and test records and rules."),
            "audit": ("audit.verbs", "Show decisions and their outcome."),
        },
        "Set-up": {
            "doctor": ("doctor.verb", "Find problems and print their fixes."),
            "menu": ("menu.menu_verbs", "Start sandboxes from the application menu."),
            "labels": ("sandboxes.labels", "Print names and colours of labels."),
            "uninstall": ("menu.uninstall", "Remove files that Vitrail wrote."),
            "man": ("man", "Show the manual page."),
            "completion": ("completion", "Print completion for bash, zsh and fish."),
            "image": ("images.verbs", "Build, import, list and remove guest images."),
            "launcher": ("launcher", "Set up Podman, libvirt and boxes."),
            "adopt": (
                "launchers.adoption.adopt",
                "Make a sandbox of a libvirt domain.",
            ),
            "guest": ("machines.guest", "Install the agent in other VMs."),
            "machine": (
                "machines.machine_verb",
                "Print a record's arguments for your own QEMU.",
            ),
            "lease": ("lease", "Lease machines that other programs started."),
            "pair": ("link.pair", "Pair a host with a viewer."),
            "link": ("link.link_verb", "Show and remove keys of the link."),
            "proxy": ("proxy", "Run a relay without sandboxes."),
        },
    }
)
VERBS: Mapping[str, str] = MappingProxyType(
    {verb: module for group in GROUPS.values() for verb, (module, _) in group.items()}
)


_DENIED = "denied: "
"""How a refusal by rules or by a record begins."""
_ALLOW = (
    "to see a rule that would allow the request, and to write it, run 'brokerctl allow'"
)


class _Verbs(click.Group):
    @override
    def invoke(self, ctx: click.Context) -> object:
        # Inside click, which would answer a closed pipe with exit code 1.
        with reader_may_leave():
            return super().invoke(ctx)

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    @override
    def get_help(self, ctx: click.Context) -> str:
        # From a table: the help of every verb would load every verb.
        return first_verbs().rstrip()

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "help":
            return _help
        module = VERBS.get(cmd_name)
        if module is None:
            return None
        try:
            with needed(f"'brokerctl {cmd_name}'"):
                loaded = importlib.import_module(f"broker.cli.{module}")
        except AbsentPartError as error:
            # Late: of all verbs only these need it.
            from broker.cli.late_group import unavailable

            return unavailable(cmd_name, error)
        command: click.Command = loaded.command
        return command

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb of the arguments; suggest similar verbs for an unknown one."""
        refuse_unknown_verb(self, ctx, args)
        return super().resolve_command(ctx, args)


def _verbs(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the verbs; loads their module only then."""
    from broker.cli.completion import verbs

    return verbs(ctx, param, incomplete)


@click.command("help")
@click.argument("words", metavar="[VERB…]", nargs=-1, shell_complete=_verbs)
@click.pass_context
def _help(context: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of VERB, as 'VERB --help' does; 'all' lists all verbs."""
    if words == ("all",):
        width = shutil.get_terminal_size((80, 24)).columns
        click.echo(overview(GROUPS, width).rstrip())
        context.exit()
    app.main([*words, "--help"], prog_name="brokerctl", standalone_mode=False)
    context.exit()


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="brokerctl")
def app() -> None:
    """Run, explain and audit what Vitrail's brokers do."""


def run_verb() -> None:
    """Run the verb of the command line."""
    app(prog_name="brokerctl", standalone_mode=False)


def _hint_of(error: VitrailError) -> str:
    """Return what a user can do about an error: its own hint, and what only we know."""
    if isinstance(error, BrokerSilentError | BrokerMissingError):
        # Late: of a broker that answers it is not needed.
        from broker.cli.run.force import silent_broker
        from broker.core.paths import find_paths

        named = silent_broker(find_paths())
        if named and isinstance(error, BrokerMissingError):
            return f"one runs that has lost its socket: {named}"
        return "; ".join(filter(None, (error.hint, named)))
    if error.hint:
        return error.hint
    if error.message.startswith(_DENIED):
        # Late, as most verbs are not refused.
        from broker.cli.policy.recorded_decisions import hint_of_limit
        from policy.tools.recorded import of_limits

        limited = of_limits(error.message.removeprefix(_DENIED))
        return hint_of_limit(error.where) if limited else _ALLOW
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "free some space on that disk; 'brokerctl df' shows what sandboxes use"
    found = path_error(cause) if isinstance(cause, OSError) else None
    if found is None:
        return ""
    # 'cannot save the chords: Permission denied', for example, does not say where.
    path = found.message.rpartition(": ")[0]
    return found.hint if path in str(error) else f"{path}: {found.hint}"


def report(error: Exception) -> int:
    """Print an error as people read it, and return the exit code.

    Raises it again, for its traceback, where VITRAIL_DEBUG is set.
    """
    error = _with_path(error)
    debug = bool(os.environ.get("VITRAIL_DEBUG"))
    match error:
        case Exit():
            return error.exit_code
        case click.Abort():
            return INTERRUPTED
        case click.ClickException():
            report_usage(error)
            return 2
        case VitrailError() if not debug and not isinstance(error, InternalError):
            error.hint = _hint_of(error)
            if error.where in error.message:
                error.where = ""  # 'no rule matches', for example
            render.error(error)
            return 3 if isinstance(error, IntegrityError) else 1
        case BrokenPipeError():
            # The reader (head, less) has gone; that is not our error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EIO | errno.EBADF):
            where, hint = _not_written(error)
            found = UpstreamError(
                f"cannot write {where}: {error.strerror}",
                hint=hint,
            )
            render.error(found)
            # What is buffered would fail again, with a traceback, when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1
        case _ if debug:
            raise error
        case _:
            # guard: no traceback reaches a user
            render.error(_defect(error))
            return 1


def _not_written(error: OSError) -> tuple[str, str]:
    """Return what could not be written, which write(2) does not say, and what to do."""
    if place := place_of(error):
        return place, "free some space there, or use another disk"
    if _output_fails(error):
        return "the output", "check where the output goes: a full disk, a closed file"
    for own in _places():
        found = os.statvfs(next(p for p in (own, *own.parents) if p.is_dir()))
        if not found.f_bavail or (found.f_files and not found.f_favail):
            return f"below {own}", "free some space on its disk"
    return "a file", "check with df(1) which disk is full"


def _output_fails(error: OSError) -> bool:
    """Return whether standard output cannot be written: what it held may be dropped."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    info = os.fstat(1)
    full = stat.S_ISREG(info.st_mode) and not os.fstatvfs(1).f_bavail
    device = stat.S_ISCHR(info.st_mode) and info.st_rdev == os.makedev(1, 7)
    return full or device or error.errno == errno.EBADF


def _places() -> list[Path]:
    """Return the directories in which verbs write."""
    try:
        paths = find_paths()
    except VitrailError:
        return [Path.home()]
    return [paths.config[0], paths.state, paths.cache, paths.runtime]


def _defect(error: Exception) -> InternalError:
    """Return the error for users of a mistake in the program."""
    hint = (
        "this is a defect of Vitrail: to report it, add the output of the same "
        "command with VITRAIL_DEBUG=1"
    )
    if isinstance(error, InternalError):
        error.hint = error.hint or hint
        return error
    text = f"{type(error).__name__}: {error}"
    return InternalError(
        f"brokerctl failed: {printable(' '.join(text.split()), 400)}", hint=hint
    )


def _with_path(error: Exception) -> Exception:
    """Return the error of a path that the user named, or may mend, as an error for users."""
    match error:
        case OSError() if found := path_error(error):
            found.__cause__ = error  # for VITRAIL_DEBUG
            return found
        case FileNotFoundError(filename=None) if _directory_is_gone():
            return SetupError(
                "the current directory does not exist any more",
                hint="change to a directory that exists: 'cd'",
            )
    return error


def _directory_is_gone() -> bool:
    """Return whether getcwd(3) fails."""
    try:
        Path.cwd()
    except OSError:
        return True
    return False
