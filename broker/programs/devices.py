"""``vitrail-devices``: hands USB devices of this machine to sandboxes, as root.

Started by its unit, for one user.  It needs CAP_SYS_ADMIN-like rights over
sysfs and the nodes of /dev/bus/usb, and nothing else: no network, no home.
"""

from __future__ import annotations

import os
import pwd
import signal
import socket
import sys
from functools import partial
from pathlib import Path

import rich_click as click
import trio

from broker.core.errors import SetupError, VitrailError
from broker.core.escape import displayed
from broker.ipc.devices import SHARED, socket_path
from broker.root import receiver
from broker.root.claims import Claims
from broker.root.devices_service import Service
from broker.root.listener import listen
from broker.root.records import load_records
from broker.root.strict import StrictMode


@click.command()
@click.option("--user", required=True, help="User whose broker may connect.")
@click.option(
    "--records",
    default=Path("/etc/vitrail/devices.toml"),
    type=click.Path(path_type=Path),
    show_default=True,
    help="Records of the devices that may leave this machine.",
)
@click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    help="Socket to listen on [default: /run/vitrail-devices-USER/devices.sock].",
)
@click.option(
    "--source",
    type=click.Choice(["udev", "kernel"]),
    help="Source of device events [default: udev where it runs].",
)
@click.option(
    "--restore",
    is_flag=True,
    help="Only restore devices that killed services of any user left behind.",
)
def main(
    user: str, records: Path, path: Path | None, source: str | None, *, restore: bool
) -> None:
    """Hand USB devices of this machine to the sandboxes of a user's broker."""
    os.umask(0o077)
    # Until 'systemctl reload' is heard: it would end the service, as if wanted.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        if restore:
            trio.run(_restore)
            return
        with receiver.start(_uid(user)) as receivers:
            where = path or socket_path(user)
            trio.run(partial(_run, user, records, where, source, receivers))
    except VitrailError as error:
        sys.exit(f"vitrail-devices: {displayed(error.diagnostics())}")


def _uid(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise SetupError(f"no user is named '{user}'") from None


async def _run(
    user: str,
    records: Path,
    path: Path,
    source: str | None,
    receivers: socket.socket,
) -> None:
    """Run the service until a signal ends it; SIGHUP reads the records again."""
    with listen(path, _uid(user)) as listener:
        service = Service(
            partial(load_records, records),
            shared=SHARED,
            receivers=receivers,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(service.run, listener, source=source))
            click.echo("vitrail-devices: ready", err=True)
            wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            with trio.open_signal_receiver(*wanted) as signals:
                async for number in signals:
                    if number != signal.SIGHUP:
                        break
                    _reload(service)
            nursery.cancel_scope.cancel()
    path.unlink(missing_ok=True)


async def _restore() -> None:
    """Put devices and strict mode back that a service which was killed has left."""
    mode = StrictMode(SHARED)
    mode.recover()
    await Claims(SHARED).recover(authorize=not mode.is_on())


def _reload(service: Service) -> None:
    try:
        service.reload()
    except VitrailError as error:
        click.echo(f"vitrail-devices: {error.diagnostics()}", err=True)


if __name__ == "__main__":
    main()
