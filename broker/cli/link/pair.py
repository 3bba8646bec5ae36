"""``brokerctl pair``: pair a host and a viewer."""

from __future__ import annotations

import socket
import sys

import rich_click as click
import trio

from broker.cli import render
from broker.cli.link.pairing.exchange import (
    NoCodeError,
    knock,
    let_in,
    pair,
    pairing_endpoint,
)
from broker.cli.link.pairing.pinned import pin, refuse_unpinnable
from broker.cli.run.connect import offline_paths
from broker.core.errors import RefusedError
from broker.ipc.in_thread import in_thread
from broker.net.addresses import parse_connect, parse_listen
from broker.net.link.keys import PinnedPeer, PublicKey
from broker.net.link.wire_types import Role
from broker.net.link_service.config import LinkConfig, load_link_config
from broker.net.link_service.key_store import LinkStore
from broker.net.listeners import open_listener

_ROLES = {"host": Role.HOST, "viewer": Role.VIEWER}


@click.command("pair")
@click.argument("name")
@click.option(
    "--as",
    "role_name",
    type=click.Choice(sorted(_ROLES)),
    required=True,
    help="Role of this machine.",
)
@click.option("--endpoint", help="Address of the link, on which the viewer listens.")
@click.option("--peer-cid", type=int, help="CID of the host (only on a viewer).")
def command(
    *, name: str, role_name: str, endpoint: str | None, peer_cid: int | None
) -> None:
    """Pair this machine's broker with the broker of another machine, NAME.

    Run this command on both machines, first on the viewer.  Each machine shows a code,
    which must be typed on the other one.
    """
    role = _ROLES[role_name]
    paths = offline_paths()
    store = LinkStore(paths)
    # An error in the name or the files is reported before two people type codes.
    refuse_unpinnable(store, name, role.other)
    config = _where(role, endpoint, peer_cid)
    found = trio.run(_pair, config, role, store)
    pin(store, PinnedPeer(name, role.other, found))
    render.note(f"paired with {name}, which is this broker's {role.other.name.lower()}")


def _where(role: Role, endpoint: str | None, peer_cid: int | None) -> LinkConfig:
    """Return where the pairing connects or listens."""
    paths = offline_paths()
    if endpoint is None:
        link = load_link_config(paths, role, peer_cid=peer_cid)
        return LinkConfig(pairing_endpoint(link.endpoint), link.peer_cid, link.peer_uid)
    parse = parse_listen if role is Role.VIEWER else parse_connect
    parse(endpoint)
    return load_link_config(paths, role, endpoint=endpoint, peer_cid=peer_cid)


async def _pair(config: LinkConfig, role: Role, store: LinkStore) -> PublicKey:
    """Pair by this role's side of the connection; return the other's key."""
    if role is Role.HOST:
        return await _compare(await knock(config), role, store)
    listener = await open_listener(config.endpoint, mode=config.mode)
    told: set[str] = set()

    def turned_away(error: RefusedError) -> None:
        # Each reason once: a stranger could come without end.
        if error.message not in told:
            told.add(error.message)
            render.note(f"refused a connection: {error.message}")
            render.note(
                "  hint: if your host opened the connection, correct link.toml: "
                f"{error.hint}"
            )

    try:
        render.note(
            f"waiting on {config.endpoint}; now run 'brokerctl pair' on the host"
        )
        while True:
            sock = await let_in(listener, config, turned_away)
            try:
                return await _compare(sock, role, store)
            except NoCodeError as error:
                # Any program of the host's machine can come to this door first.
                render.note(f"rejected a peer: {error.message}; still waiting")
    finally:
        listener.close()


async def _compare(sock: socket.socket, role: Role, store: LinkStore) -> PublicKey:
    return await pair(sock, role=role, identity=store.identity(), show=_show, ask=_ask)


def _show(code: str, fingerprint: str) -> None:
    half = len(code) // 2
    click.echo(f"this machine's code: {code[:half]} {code[half:]}")
    render.note(f"type this code on the other machine, whose key is {fingerprint}")


async def _ask() -> str:
    sys.stderr.write("the other machine's code: ")
    sys.stderr.flush()
    return await in_thread(sys.stdin.readline, abandon_on_cancel=True)
