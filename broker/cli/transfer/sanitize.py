"""``brokerctl sanitize``: convert documents to harmless copies in a disposable sandbox."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import rich_click as click

from broker.cli import render
from broker.cli.completion import sandboxes
from broker.cli.policy.records import read_records, require_correct
from broker.cli.run.connect import offline_paths
from broker.cli.transfer.named_files import (
    open_named,
    open_named_directory,
    writable_places,
)
from broker.cli.transfer.named_path import path_of
from broker.core.errors import PeerError, RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.files.planted_links import find_enclosing, incoming_folder
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import PIPE, spawn
from shims.files.page_writers import write_document
from shims.files.pages import BrokeOffError, PagesError, read_pages
from shims.files.protocol import TransferError

_END_SECONDS = 5.0


@click.command("sanitize")
@click.argument("files", nargs=-1, required=True, type=click.Path())
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
    type=click.Path(path_type=Path),
    help="Directory for the new documents [default: the directory of each document; "
    "~/Incoming/SANDBOX for documents in directories that a sandbox can write to].",
)
def command(files: tuple[str, ...], *, sandbox: str, folder: Path | None) -> None:
    """Convert PDF files, office documents and pictures to harmless copies.

    Programs of a new disposable SANDBOX read each document and return pixels and the
    recognized text.  From these, this command writes a new PDF file NAME.safe.pdf (for a
    picture, a PNG file), which contains nothing else of the document.  The document is
    not changed.

    If a sandbox can write to the directory of the document, it could replace the new
    document before you open it, so the new document is in ~/Incoming/SANDBOX instead.
    Links that a sandbox may have created are not followed.

    Exit code: 0 done, 1 a document could not be converted.
    """
    _require_disposable(sandbox)
    places = writable_places(offline_paths())
    failed = False
    for file in map(Path, map(path_of, files)):
        try:
            with NewDocumentFolder(file, sandbox, folder, places) as result:
                made = sanitize(file, sandbox, result, places)
        except (PeerError, RefusedError, UpstreamError) as error:
            failed = True
            render.error(error)
        else:
            click.echo(printable(str(made), 4000))
    if failed:
        sys.exit(1)


def _require_disposable(sandbox: str) -> None:
    """Refuse a sandbox that keeps what a document has done to it, or has a network."""
    records = read_records(offline_paths())
    require_correct(records, sandbox)
    record = records.records.get(sandbox)
    if record is None:
        raise RefusedError(
            f"no record is named '{printable(sandbox, 60)}'",
            hint="see docs/opening.md, 'Documents made harmless', for an example",
        )
    network = getattr(record.host.launch, "network", "none")
    # guard: a document is opened where nothing stays and nothing leaves
    if record.host.sandbox_class != "disposable" or network != "none":
        if network != "none":
            key, why, mend = "launch.network", "has a network", "remove launch.network"
        if record.host.sandbox_class != "disposable":
            key, mend = "class", 'set class = "disposable"'
            why = f'has the class "{record.host.sandbox_class}", not "disposable"'
        raise RefusedError(
            f"cannot open documents in '{sandbox}': its record {why}",
            where=record.where(key),
            hint=f"{mend}, or use another record (--in)",
        )


class NewDocumentFolder:
    """The directory of a new document, open while the block runs."""

    def __init__(
        self, file: Path, sandbox: str, folder: Path | None, places: Sequence[Path]
    ) -> None:
        """``places`` are the directories that sandboxes may write to.

        Raises RefusedError.
        """
        self.path, self._fd = open_named_directory(folder or file.parent, places)
        place = find_enclosing(self.path, places)
        # guard: no sandbox can replace a harmless copy before it is opened
        if place is not None and folder is None:
            os.close(self._fd)
            self.path, self._fd = _incoming(sandbox, places)
        elif place is not None:
            render.note(
                f"warning: a sandbox can write to {printable(str(place), 200)}, and "
                "replace the new document before you open it"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @property
    def opened(self) -> str:
        """A path of the opened directory, whatever takes the place of its own path."""
        # guard: a harmless copy is written to the directory that was looked at
        return f"/proc/self/fd/{self._fd}"


def _incoming(sandbox: str, places: Sequence[Path]) -> tuple[Path, int]:
    """Open the directory below ~/Incoming where this sandbox's files arrive."""
    hint = "specify a directory of your own with --to"
    return open_named_directory(incoming_folder(sandbox, places, hint=hint), places)


def sanitize(
    file: Path, sandbox: str, result: NewDocumentFolder, places: Sequence[Path] = ()
) -> Path:
    """Make a harmless document of one, in a sandbox; return its path.

    Raises UpstreamError if the sandbox does not run or fails, PeerError for pages
    that are not in their form, RefusedError for a link that a sandbox may have made.
    """
    # guard: no module is loaded from the directory of the documents
    words = our_program("broker.cli.app", "run", "-q", "--no-window", sandbox, "--")
    # guard: the user sanitizes no file that a sandbox chose by a link
    document = open_named(file, places)
    try:
        child = spawn(
            [*words, "vitrail-sanitize", f"document{file.suffix}"],
            stdin=document,
            stdout=PIPE,
            cwd=Path.cwd(),
        ).popen
    finally:
        os.close(document)
    with child:
        if child.stdout is None:
            raise UpstreamError("the sandbox has no standard output")
        try:
            pages = read_pages(child.stdout)
            made = write_document(pages, file.name, result.opened)
            _ended(child.pid)
        except BrokeOffError as error:
            # If it failed, it has said why, above.
            if _ended(child.pid) and child.wait():
                raise UpstreamError(
                    f"'{sandbox}' made no copy of {printable(file.name)}; its error "
                    "is above",
                    hint="correct this error, and run the command again",
                ) from None
            raise PeerError(str(error)) from error
        except PagesError as error:
            raise PeerError(str(error)) from error
        except TransferError as error:
            raise UpstreamError(str(error)) from error
        finally:
            # It may run for as long as it likes; its sandbox ends with it.
            child.kill()
    return result.path / Path(made).name


def _ended(pid: int) -> bool:
    """Wait a moment for the end of a child; returns whether it has ended."""
    held = os.pidfd_open(pid)
    try:
        return bool(select.select([held], [], [], _END_SECONDS)[0])
    finally:
        os.close(held)
