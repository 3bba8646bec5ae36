"""``brokerctl services``: what sandboxes, and your desktop, offer to calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import rich_click as click

from broker.cli.completion import sandboxes
from broker.core.escape import printable

if TYPE_CHECKING:
    from broker.core.paths import Paths
    from broker.ipc.control.api import RunItem

_LISTED_BYTES = 1 << 16
DESKTOP = "@adminvm"


class OfferedService(NamedTuple):
    """A service: who has it, and what runs."""

    sandbox: str
    service: str
    program: str
    place: str
    """The file that offers it."""


@click.command("services")
@click.argument("sandbox", required=False, shell_complete=sandboxes)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def command(sandbox: str | None, *, as_json: bool) -> None:
    """List the services of records and of your desktop.

    With SANDBOX, which must be running, also list the services in directories of its
    guest; these names come from the sandbox.  Rules for vitrail.Call decide which
    sandbox may call a service; to draw them, run 'brokerctl policy graph'.
    """
    from broker.cli import render
    from broker.cli.run.connect import offline_paths

    paths = offline_paths()
    found = [*_of_records(paths, sandbox)]
    if sandbox is None:
        found += _of_desktop(paths)
    else:
        found += _of_guest(sandbox)
    if as_json:
        for offer in found:
            render.json_line(offer._asdict())
        return
    if not found:
        render.note(
            "neither a record nor a file of the desktop offers a service"
            if sandbox is None
            else f"'{printable(sandbox, 60)}' offers no service"
        )
        return
    render.table(["SANDBOX", "SERVICE", "PROGRAM", "FROM"], found)


def _of_records(paths: Paths, sandbox: str | None) -> Iterator[OfferedService]:
    """Yield the services of records, or of one."""
    from broker.cli.policy.records import read_records

    for name, record in sorted(read_records(paths).records.items()):
        for service in record.viewer.services:
            if sandbox in {None, name}:
                words = " ".join(service.command)
                yield OfferedService(
                    name, service.name, words, record.where("services")
                )


def _of_desktop(paths: Paths) -> Iterator[OfferedService]:
    """Yield the services of the user's own desktop."""
    from broker.core.errors import SetupError
    from broker.core.paths import read_config
    from policy.services.desktop import FOLDER, parse_service

    for file in sorted((paths.config[0] / FOLDER).glob("*.toml")):
        try:
            service, problems = parse_service(file, read_config(file))
        except SetupError as error:
            yield OfferedService(
                DESKTOP, file.stem, f"cannot be used: {error}", str(file)
            )
            continue
        words = " ".join(service.command) if service else problems[0].first_line()
        yield OfferedService(DESKTOP, file.stem, words, str(file))


def _of_guest(sandbox: str) -> Iterator[OfferedService]:
    """Yield the services that a running guest lists."""
    import trio

    from broker.cli.run.exec import the_running

    name = the_running(sandbox)
    untrusted_lines = trio.run(_listed, name).decode("utf-8", "replace").splitlines()
    for line in untrusted_lines:
        service, _, program = line.partition("\t")
        yield OfferedService(
            name, printable(service, 130), printable(program, 400), "the guest"
        )


async def _listed(name: str) -> bytes:
    """Have the broker run ``vitrail-files services`` in a sandbox; return its output.

    Raises RefusedError without agent.
    """
    from broker.cli.run.connect import open_client
    from broker.ipc.control.api import RunRequest
    from broker.ipc.control.methods import RUN

    output = bytearray()

    async def take(item: RunItem) -> None:
        if item.output is not None and len(output) < _LISTED_BYTES:
            output.extend(item.output)

    argv = ["vitrail-files", "services"]
    request = RunRequest(
        record=name, argv=argv, window=False, display=False, wait=True, stderr=True
    )
    async with open_client() as client:
        await client.call(RUN, request, take)
    return bytes(output[:_LISTED_BYTES])
