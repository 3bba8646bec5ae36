"""``brokerctl sanitize``: documents made harmless in a sandbox that ends afterwards."""

from __future__ import annotations

import itertools
import os
import select
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

import rich_click as click

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.sanitizing.pixels import BrokeOffError, read_pages
from broker.core.errors import PeerError, RefusedError, UpstreamError
from broker.core.escape import printable
from broker.helpers.process.spawn import PIPE, spawn

_END_SECONDS = 5.0
_RUN = "import sys; from broker.cli.app import main; sys.exit(main())"
_PICTURES = frozenset(
    {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp"}
)


@click.command("sanitize")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--in",
    "sandbox",
    default="sanitize",
    show_default=True,
    shell_complete=sandboxes,
    help="The disposable record whose programs read the documents.",
)
@click.option(
    "--to",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the new documents go; else beside each document.",
)
def command(files: tuple[Path, ...], *, sandbox: str, folder: Path | None) -> None:
    """Make documents harmless: PDF and office documents, and pictures.

    Each is read by programs of a fresh disposable SANDBOX, which gives back pixels and
    the words that it finds in them.  Of these a new PDF (of a picture: PNG) is written
    here, NAME.safe.pdf, which has nothing else of the document.  The document stays.

    Exit code: 0, or 1 when one was not made.
    """
    _require_disposable(sandbox)
    failed = False
    for file in files:
        try:
            made = sanitize(file, sandbox, folder or file.parent)
        except (PeerError, UpstreamError) as error:
            failed = True
            render.error(error)
        else:
            click.echo(printable(str(made), 4000))
    if failed:
        sys.exit(1)


def _require_disposable(sandbox: str) -> None:
    """Refuse a sandbox that keeps what a document has done to it, or has a network."""
    from broker.cli.policy.records import read_records
    from broker.cli.run.connect import offline_paths

    record = read_records(offline_paths()).records.get(sandbox)
    if record is None:
        raise RefusedError(
            f"there is no record '{printable(sandbox, 60)}'",
            hint="docs/opening.md, 'Documents made harmless', has one",
        )
    network = getattr(record.host.launch, "network", "none")
    # guard: a document is opened where nothing stays and nothing leaves
    if record.host.sandbox_class != "disposable" or network != "none":
        raise RefusedError(
            f"'{sandbox}' is not a disposable without a network",
            where=record.where("class"),
            hint='it would have class = "disposable", and no launch.network',
        )


def sanitize(file: Path, sandbox: str, folder: Path) -> Path:
    """Make a new document of one; returns its path.

    Raises UpstreamError where the sandbox does not run or fails, PeerError for pages
    that are not in their form.
    """
    words = [sys.executable, "-c", _RUN, "run", "-q", sandbox, "--", "vitrail-sanitize"]
    with file.open("rb") as document:
        child = spawn(
            [*words, f"document{file.suffix}"],
            stdin=document.fileno(),
            stdout=PIPE,
            cwd=Path.cwd(),
        ).popen
    with child:
        if child.stdout is None:
            raise UpstreamError("no output")
        try:
            made = _written(child.stdout, file, folder)
            _ended(child.pid)
        except BrokeOffError:
            # Where it failed, it has said why, above.
            if _ended(child.pid) and child.wait():
                raise UpstreamError(f"{printable(file.name)} was not made") from None
            raise
        finally:
            # It may go on for as long as it likes; its sandbox ends with it.
            child.kill()
    return made


def _ended(pid: int) -> bool:
    """Wait a moment for the end of a child; returns whether it has ended."""
    held = os.pidfd_open(pid)
    try:
        return bool(select.select([held], [], [], _END_SECONDS)[0])
    finally:
        os.close(held)


def _written(pages: IO[bytes], file: Path, folder: Path) -> Path:
    """Write the new document; none is left where that fails."""
    # Late: not for the help.
    from broker.cli.sanitizing.writing import PdfWriter, write_png

    found = read_pages(pages)
    first = next(found, None)
    if first is None:
        raise PeerError("the sandbox found no page in it")
    picture = file.suffix.lower() in _PICTURES
    path, out = _fresh(folder, file.stem, ".safe.png" if picture else ".safe.pdf")
    try:
        with out:
            if picture:
                write_png(out, first)
                for _ in found:
                    pass
            else:
                pdf = PdfWriter(out)
                for page in itertools.chain([first], found):
                    pdf.add(page)
                pdf.finish()
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    return path


def _fresh(folder: Path, stem: str, ending: str) -> tuple[Path, IO[bytes]]:
    """Make a file of a name that is free; never another file's."""
    for number in itertools.count(1):
        path = folder / f"{stem}{'' if number == 1 else f'-{number}'}{ending}"
        with suppress(FileExistsError):
            return path, path.open("xb")
    raise AssertionError
