"""``brokerctl completion``: shell completion.

The shell's part is click's own; it runs brokerctl with ``_BROKERCTL_COMPLETE``
set.  Names come from files alone: a broker that hangs must not hang a shell.
"""

from __future__ import annotations

import sys

import click as plain_click
import rich_click as click
from click.shell_completion import CompletionItem, get_completion_class

from broker.core.errors import VitrailError

PROGRAM = "brokerctl"
VARIABLE = "_BROKERCTL_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(*, shell: str) -> None:
    """Print the completion script for SHELL.

    bash and zsh: source <(brokerctl completion bash); fish: brokerctl
    completion fish | source.
    """
    from broker.cli.verbs import app

    kind = get_completion_class(shell)
    assert kind is not None
    sys.stdout.write(kind(app, {}, PROGRAM, VARIABLE).source() + "\n")


def sandboxes(
    ctx: plain_click.Context, param: plain_click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of records, and of sandboxes that have a runtime directory."""
    del ctx, param
    return _items(known_sandboxes(), incomplete)


def known_sandboxes() -> list[str]:
    """Return the names of records, and of sandboxes that have a runtime directory."""
    from broker.cli.policy.records import read_records
    from broker.cli.run.connect import offline_paths

    try:
        paths = offline_paths()
        names = {*read_records(paths).records}
        folder = paths.sandbox("x").parent
        if folder.is_dir():
            names |= {path.name for path in folder.iterdir()}
    except (VitrailError, OSError):
        return []  # nothing to offer; the verb itself reports the error
    return sorted(names)


def logged_sandboxes(
    ctx: plain_click.Context, param: plain_click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of records and sandboxes, and of sandboxes with logs."""
    from broker.cli.run.connect import offline_paths

    del ctx, param
    names = {*known_sandboxes()}
    folder = offline_paths().logs("x").parent
    if folder.is_dir():
        names |= {path.name for path in folder.iterdir()}
    return _items(sorted(names), incomplete)


def services(
    ctx: plain_click.Context, param: plain_click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete names of services, with and without ``vitrail.``."""
    from policy.rules.checks import SERVICES

    del ctx, param
    short = [service.removeprefix("vitrail.") for service in SERVICES]
    return _items([*SERVICES, *short], incomplete)


def kinds(
    ctx: plain_click.Context, param: plain_click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete kinds of events and their first words."""
    from broker.ipc.audit import schema

    del ctx, param
    first = {kind.partition(".")[0] for kind in schema.KINDS}
    return _items(sorted({*schema.KINDS, *first}), incomplete)


def images(
    ctx: plain_click.Context, param: plain_click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete names of guest images."""
    from broker.cli.run.connect import offline_paths

    del ctx, param
    found = (path.name for path in offline_paths().images.glob("[a-z]*"))
    return _items(sorted(found), incomplete)


def examples(
    ctx: plain_click.Context, param: plain_click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete names of shipped examples and of records."""
    from broker.cli.policy.records import EXAMPLES

    del ctx, param
    names = {*known_sandboxes(), *(path.stem for path in EXAMPLES.glob("*.toml"))}
    return _items(sorted(names), incomplete)


def colours(
    ctx: plain_click.Context, param: plain_click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete names of colours."""
    from policy.records.patterns import PALETTE

    del ctx, param
    return _items(list(PALETTE), incomplete)


def places(
    ctx: plain_click.Context, param: plain_click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a place to copy from or to: ``SANDBOX:``, or a file of this machine."""
    del ctx, param
    found = _items([f"{name}:" for name in known_sandboxes()], incomplete)
    return [*found, CompletionItem(incomplete, type="file")]


def verbs(
    ctx: plain_click.Context, param: plain_click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete verbs for ``brokerctl help``."""
    from broker.cli.verbs import VERBS

    del ctx, param
    return _items(list(VERBS), incomplete)


def _items(names: list[str], incomplete: str) -> list[CompletionItem]:
    """Return completions that begin with the text, ignoring case."""
    wanted = incomplete.lower()
    return [CompletionItem(n) for n in names if n.lower().startswith(wanted)]
