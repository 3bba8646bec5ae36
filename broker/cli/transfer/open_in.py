"""``brokerctl open``: open files and addresses in a sandbox."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import rich_click as click
import trio

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.run.connect import open_client
from broker.cli.run.progress import Steps
from broker.cli.run.start import ensure_broker, refuse_root
from broker.cli.transfer.check import check_line, check_name, check_url
from broker.cli.transfer.named_path import path_of
from broker.core.errors import RefusedError, VitrailError
from broker.core.escape import printable
from broker.core.limits import transfer as limits
from broker.core.paths import Paths, find_paths
from broker.core.transfer.urls import DEFAULT_SCHEMES
from broker.ipc.control.api import OpenItem, OpenRequest
from broker.ipc.control.methods import OPEN

OPENING = "VITRAIL_OPENING"
"""Set by the broker for a program that opens an address on this desktop."""


@click.command("open")
@click.argument("objects", nargs=-1, metavar="[URL|FILE]…")
@click.option(
    "--in",
    "sandbox",
    shell_complete=sandboxes,
    help="Sandbox in which to open the targets, or its record.",
)
@click.option("--edit", is_flag=True, help="Replace the file with the edited file.")
@click.option(
    "--check", is_flag=True, help="Print what would be accepted; change nothing."
)
@click.option(
    "--batch",
    is_flag=True,
    help="With --check: read one JSON object per line from standard input.",
)
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    help="With --check: accept this scheme instead of https, http and mailto.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def command(
    objects: tuple[str, ...],
    *,
    sandbox: str | None,
    edit: bool,
    check: bool,
    batch: bool,
    schemes: tuple[str, ...],
    quiet: bool,
) -> None:
    """Open addresses and files in a sandbox, which is started if necessary.

    Without --in, the rules for vitrail.OpenURL and vitrail.OpenFile with the source
    @adminvm choose the sandbox by scheme, host, type and size.  The sandbox receives a
    read-only copy of a file, and nothing is copied back.

    With --edit, which needs a rule with return=yes, the file is replaced after the
    program has exited if the content has changed; the previous version is kept as FILE~.

    With --check, open nothing, and print one JSON object per line.  With --batch,
    standard input contains the questions: {"kind": "url", "text": "https://…"} or
    {"kind": "name", "bytes_hex": "…"}.

    Exit code: 0 done, 1 something was refused; --batch always 0.
    """
    if check:
        _check_all(objects, batch=batch, schemes=schemes)
        return
    if batch or schemes:
        raise click.UsageError("--batch and --scheme require --check")
    if not objects:
        raise click.UsageError("specify an address or a file")
    if os.environ.get(OPENING):
        raise RefusedError(
            f"refused to open {printable(objects[0], 100)} again: the desktop's "
            "default program for it runs 'brokerctl open'",
            hint="choose another default program, or write a rule whose target is a "
            "sandbox",
        )
    for one in objects:
        request = _request(one, sandbox, edit=edit)
        done = trio.run(send_request, request, Steps(quiet=quiet))
        how = "edited" if edit else "opened"
        render.note(f"{how} in {printable(done.sandbox, 60)}")
        if done.detail:
            render.note(printable(done.detail, 400))


def _request(text: str, sandbox: str | None, *, edit: bool) -> OpenRequest:
    """Return the request to open an address or, otherwise, an existing file.

    So a file with the name of an address, which a sandbox may have sent, is opened by
    its path only (``./https:…``).
    """
    text = path_of(text)  # of file managers and as the default application
    path = Path(text)
    address = text.partition(":")[0].lower() in DEFAULT_SCHEMES
    # Not Path.exists(), which raises for a name that is too long for a file.
    if ":" not in text or (not address and os.path.exists(text)):  # noqa: PTH110
        return OpenRequest(path=str(path.absolute()), sandbox=sandbox, edit=edit)
    if edit:
        raise click.UsageError("--edit works only with files")
    return OpenRequest(url=text, sandbox=sandbox)


async def send_request(request: OpenRequest, steps: Steps) -> OpenItem:
    """Send the request to the broker, which is started if none is running.

    If the broker answers that an image is absent, builds it and sends the request
    again.
    """
    refuse_root()

    async def show(item: OpenItem) -> None:
        if item.progress is not None:
            steps.progress(item.progress)

    paths = find_paths()
    async with steps.shown():
        await ensure_broker(paths)
        async with open_client(paths) as client:
            try:
                return await client.call(OPEN, request, show)
            except VitrailError as error:
                failed = error
        await _build_missing(failed, paths, steps)
        # A build takes longer than the broker waits for a request of a connection.
        async with open_client(paths) as client:
            return await client.call(OPEN, request, show)


async def _build_missing(error: VitrailError, paths: Paths, steps: Steps) -> None:
    """Build the image that was missing, as ``run`` does; raises other errors again.

    The target is chosen by the broker's rules, so its image is known afterwards only.
    """
    # Late: only the first file of a sandbox builds its image.
    from broker.cli.policy.records import read_records
    from broker.cli.run.image import ensure_image
    from broker.host.images.store import missing_image

    name = missing_image(error)
    for record in read_records(paths).records.values():
        if name and getattr(record.host.launch, "image", None) == name:
            await ensure_image(paths, record, steps)
            return
    raise error


def _check_all(
    objects: tuple[str, ...], *, batch: bool, schemes: tuple[str, ...]
) -> None:
    """Check all names or addresses, without opening them, and print the answers."""
    allowed = frozenset(scheme.lower() for scheme in schemes) or DEFAULT_SCHEMES
    if batch == bool(objects):
        raise click.UsageError("specify addresses or names, or --batch")
    if batch:
        for untrusted_line in _lines(sys.stdin.buffer):
            render.json_line(check_line(untrusted_line, allowed))
        return
    answers = [_check(untrusted_text, allowed) for untrusted_text in objects]
    for answer in answers:
        render.json_line(answer)
    if not all(answer["ok"] for answer in answers):
        sys.exit(1)


def _check(untrusted_text: str, schemes: frozenset[str]) -> dict[str, object]:
    """Check an argument: an address if it contains a colon, or else a file name."""
    if ":" in untrusted_text:
        return check_url(untrusted_text, schemes)
    return check_name(untrusted_text.encode("utf-8", "surrogateescape"))


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield lines; of a too long line its beginning, longer than allowed."""
    limit = limits.CHECK_LINE_BYTES
    while line := stream.readline(limit + 2):
        yield line.removesuffix(b"\n")
        while len(line) == limit + 2 and not line.endswith(b"\n"):
            line = stream.readline(limit + 2)
