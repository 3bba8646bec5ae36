"""``brokerctl link``: this broker's key, and the brokers that it accepts."""

from __future__ import annotations

import shlex

import rich_click as click
import trio

from broker.cli import render
from broker.cli.link.pairing.pinned import forget
from broker.cli.run.connect import offline_paths
from broker.core.escape import printable
from broker.host.vmm.hosttools import fetch_vhost_device_vsock
from broker.host.vmm.vsock_backend import hybrid_environment
from broker.net.link_service.key_store import LinkStore


@click.group("link")
def command() -> None:
    """Manage the keys of the link between a host and a viewer, and its vsock."""


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def key(*, as_json: bool) -> None:
    """Print the public key and the fingerprint of this broker."""
    public = LinkStore(offline_paths()).identity().public
    if as_json:
        render.json_line({"key": str(public), "fingerprint": public.fingerprint})
    else:
        click.echo(str(public))
        render.note(f"fingerprint {public.fingerprint}")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def list_peers(*, as_json: bool) -> None:
    """List the brokers that this broker accepts on its link."""
    peers = LinkStore(offline_paths()).peers().all
    for peer in peers:
        role = peer.role.name.lower()
        if as_json:
            render.json_line(
                {
                    "name": peer.name,
                    "role": role,
                    "key": str(peer.key),
                    "fingerprint": peer.key.fingerprint,
                }
            )
        else:
            click.echo(f"{role:<6}  {peer.name:<20}  {peer.key.fingerprint}")
    if not peers and not as_json:
        render.note("no machine is paired; run 'brokerctl pair' on both machines")


@command.command("forget")
@click.argument("name")
def forget_broker(name: str) -> None:
    """Stop accepting the broker NAME."""
    forget(LinkStore(offline_paths()), name)
    render.note(f"this broker no longer accepts {printable(name, 60)}")


@command.command("vsock")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def vsock(*, as_json: bool) -> None:
    """Print the command that begins a vsock device for a viewer's VM.

    It is vhost-device-vsock, downloaded where this machine has none, with the library
    that keeps a stream that is full both ways from stalling.

    Exit code: 0 printed, 1 the program cannot be downloaded.
    """
    tool = trio.run(lambda: fetch_vhost_device_vsock(offline_paths(), render.note))
    preload = hybrid_environment()
    if as_json:
        render.json_line({"program": str(tool), "environment": preload})
        return
    settings = [f"{name}={value}" for name, value in preload.items()]
    click.echo(shlex.join(["env", *settings, str(tool)]))
    if not preload:
        render.note(
            "the library is missing, so a stream that is full both ways stalls: "
            "install gcc and python3-dev, then Vitrail again"
        )
