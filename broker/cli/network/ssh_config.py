"""``brokerctl ssh-config``: print ssh configuration for sandboxes."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import rich_click as click

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.policy.records import read_records, require_correct
from broker.cli.run.connect import offline_paths
from broker.core.errors import RefusedError
from broker.core.escape import printable
from policy.records.model import Record

_PORT = 22
_UNPRIVILEGED = 1024
"""The first port on which others than root listen."""
_DENIED = (
    "ForwardAgent",
    "ForwardX11",
    "ForwardX11Trusted",
    "GSSAPIDelegateCredentials",
    "PermitLocalCommand",
    "Tunnel",
)
"""Options of ssh_config(5) that give a server access to this machine."""
_USER = "user"
"""The account of programs in guests that are made from our images."""


@click.command("ssh-config")
@click.argument("names", metavar="[SANDBOX…]", nargs=-1, shell_complete=sandboxes)
@click.option("--user", default=_USER, show_default=True, help="User in the sandbox.")
@click.option(
    "--port",
    default=_PORT,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Port of sshd in the sandbox.",
)
def command(names: tuple[str, ...], *, user: str, port: int) -> None:
    """Print lines for ssh_config(5) for 'ssh SANDBOX' [default: all sandboxes].

    The lines work for ssh, scp, rsync, git and editors, and turn off what a block
    'Host *' may give to every server: your agent, your X server and local commands.  The sandbox needs sshd on a
    loopback port, and a rule 'vitrail.Tcp +22 @adminvm SANDBOX allow'.  In a box or
    container, the port must be 1024 or higher.

    Exit code: 0 done, 1 a record does not exist.
    """
    record_set = read_records(offline_paths())
    records = record_set.records
    for name in names:
        require_correct(record_set, name)
        _require_ports(records, name, port)
    known = [name for name, one in records.items() if _has_ports(one)]
    chosen = sorted(names or (one for one in known if _listens(records[one], port)))
    sys.stdout.write("".join(_host(name, user, port) for name in chosen))
    if not names and len(chosen) < len(known):
        render.note(
            "boxes and containers are left out, because none of their programs can "
            f"listen on port {port}: to include them, add --port with the port of "
            "their sshd"
        )
    if not known:
        render.note("no record describes a sandbox whose ports can be forwarded")
    elif chosen and sys.stdout.isatty():
        render.note(
            "to write these lines to a file: brokerctl ssh-config > ~/.ssh/vitrail.conf"
        )
        render.note(
            "then add to the beginning of ~/.ssh/config: Include ~/.ssh/vitrail.conf"
        )


def _require_ports(records: Mapping[str, Record], name: str, port: int) -> None:
    """Raise RefusedError unless a sandbox of a record can have sshd on a port."""
    record = records.get(name)
    if record is None:
        raise RefusedError(
            f"no record is named '{printable(name, 64)}'",
            hint="to list the records, run 'brokerctl list'",
        )
    if not _has_ports(record):
        raise RefusedError(
            f"cannot forward ports of '{name}': its kind, "
            f"{record.host.launch.kind.name}, does not support this",
            where=record.where("launch.kind"),
            hint="to list the sandboxes whose ports can be forwarded, run "
            "'brokerctl ssh-config'",
        )
    if not _listens(record, port):
        raise RefusedError(
            f"no program of '{name}' can listen on port {port}: those of a box or "
            "container are not root's",
            where=record.where("launch.kind"),
            hint="start sshd in it on another port, such as 2222, and run "
            f"'brokerctl ssh-config --port 2222 {name}'",
        )


def _listens(record: Record, port: int) -> bool:
    """Return whether a program of a sandbox can listen on a port: below 1024 root's alone."""
    return port >= _UNPRIVILEGED or record.host.launch.kind.agent


def _has_ports(record: Record) -> bool:
    kind = record.host.launch.kind
    return kind.agent or (kind.holds and kind.own_command)


def _host(name: str, user: str, port: int) -> str:
    options = [
        f"ProxyCommand brokerctl forward --stdio {name} %p",
        f"HostKeyAlias {name}.vitrail",
        f"User {user}",
    ]
    if port != _PORT:
        options.append(f"Port {port}")
    # guard: a sandbox's sshd gets nothing that 'Host *' gives to trusted servers
    options += [f"{option} no" for option in _DENIED]
    return "".join(
        f"{line}\n" for line in (f"Host {name}", *(f"    {o}" for o in options))
    )
