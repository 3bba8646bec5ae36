"""Errors of the command line: the mistake, the usage, and the nearest verb or option."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import click

from broker.cli import render
from broker.core.escape import printable

MEANT: Mapping[str, str] = MappingProxyType(
    {
        "add": "new",
        "attach": "shell",
        "backup": "sandbox backup",
        "build": "image build",
        "check": "policy check",
        "clone": "sandbox clone",
        "connections": "audit connections",
        "console": "logs --console",
        "copy": "cp",
        "create": "new",
        "delete": "sandbox remove",
        "deny": "answer",
        "edit": "policy edit",
        "enter": "shell",
        "explain": "policy explain",
        "images": "image list",
        "info": "status",
        "kill": "stop",
        "lint": "policy lint",
        "log": "logs",
        "ls": "list",
        "ps": "status",
        "remove": "sandbox remove",
        "rename": "sandbox rename",
        "restore": "sandbox restore",
        "rmi": "image remove",
        "revoke": "grants revoke",
        "rm": "sandbox remove",
        "rules": "policy show",
        "show": "policy show",
        "snapshot": "sandbox snapshot",
        "ssh": "shell",
        "start": "run",
        "terminal": "shell",
        "update": "image rebuild",
        "usb": "device list",
    }
)
"""Verbs of other tools, and their names here."""
_MEANT_IN: Mapping[str, str] = MappingProxyType(
    {
        "image df": "brokerctl df",
        "image ls": "list",
        "image prune": "brokerctl prune --images",
        "image pull": "import",
        "image rm": "remove",
        "image update": "rebuild",
        "policy list": "show",
        "policy ls": "show",
        "policy reload": "check",
        "policy why": "explain",
        "sandbox delete": "remove",
        "sandbox ls": "list",
        "sandbox prune": "brokerctl prune",
        "sandbox rm": "remove",
    }
)
"""The same for verbs of a group; a value with 'brokerctl' is not of that group."""


class UnknownVerbError(click.UsageError):
    """No such verb in a group; ``meant`` is what probably was."""

    def __init__(self, context: click.Context, word: str, verbs: Iterable[str]) -> None:
        import difflib  # late: every verb loads this module

        near = difflib.get_close_matches(word, list(verbs), n=1)
        top = context.parent is None
        path = context.command_path
        group = path.partition(" ")[2]
        meant = MEANT.get(word, "") if top else _MEANT_IN.get(f"{group} {word}", "")
        meant = meant or (near[0] if near else "")
        super().__init__(f"No such command '{printable(word, 60)}'", ctx=context)
        whole = meant if meant.startswith("brokerctl ") else f"{path} {meant}"
        self.meant = whole if meant else ""


def refuse_unknown_verb(
    group: click.Group, context: click.Context, words: list[str]
) -> None:
    """Raise UnknownVerbError where the first word is no verb of a group."""
    if context.resilient_parsing or not words or words[0].startswith("-"):
        return
    if group.get_command(context, words[0]) is None:
        raise UnknownVerbError(context, words[0], group.list_commands(context))


def report_usage(error: click.ClickException) -> None:
    """Print a usage error: the message, the usage and a hint."""
    if type(error).__name__ == "NoArgsIsHelpError":
        # click 8.2 and later; before, click itself prints the help.
        sys.stderr.write(f"{error.format_message().rstrip()}\n")
        return
    message = " ".join(error.format_message().split())
    render.note("error: " + printable(message, 1000))
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return
    path = printable(context.command_path, 200)
    if isinstance(error, UnknownVerbError):
        # The first page has the ten verbs of a beginning alone.
        words = "brokerctl help all" if path == "brokerctl" else f"{path} --help"
        hint = f"to list the commands, run '{words}'"
        meant = f"did you mean '{error.meant}'?" if error.meant else ""
        render.note("  hint: " + " ".join(filter(None, (meant, hint))))
        return
    pieces = " ".join(context.command.collect_usage_pieces(context))
    usage = f"{path} {printable(pieces, 1000)}"
    render.note("  usage: " + usage)
    hint = f"for details, run '{path} --help'"
    render.note("  hint: " + hint)
