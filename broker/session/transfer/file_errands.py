"""The user's files, each touched by a separate program in a jail of its own.

``shims/files`` reads and keeps files here as it does in a guest: so one receiver is
tested against every trick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.files.planted_links import incoming_folder
from broker.core.services import FILE_COPY
from broker.helpers.process import popen
from broker.helpers.process.memory_file import memory_file
from broker.helpers.tools.profiles import FILES
from broker.ipc.session import file_orders as m
from broker.session import printing
from broker.session.errand import Errand
from broker.session.transfer import chosen_files, dropped_files, links
from broker.wire import fdpass
from policy.names import ADMIN
from shims.bundle import carried_tool

KEEP_FREE_BYTES = 100 << 20
_LAST_WORDS_BYTES = 1 << 16


def carry_out_file(errand: Errand, order: m.FileOrder) -> None:
    """Carry out an order.  Raises VitrailError, OSError."""
    errand.descriptors(_DESCRIPTORS.get(type(order), 0))
    _WORK[type(order)](errand, order)


def _send(errand: Errand, order: m.SendFiles) -> None:
    """Send the files of a ticket; those that were dropped go with a permit only."""
    verb: Literal["send", "drop"] = "drop" if order.warrant else "send"
    found = chosen_files.ticket(errand, m.from_memory(errand.fds[0]), verb)
    if order.warrant:
        permit = errand.permit(order.warrant, {FILE_COPY}, here=False)
        # guard: files that were dropped go where a rule lets the user's files go
        if (permit.source, permit.target) != (ADMIN, found.sandbox):
            raise RefusedError(
                f"the permit is for files from {permit.source or permit.sandbox} to {permit.target}, not for files that were dropped on {found.sandbox}"
            )
    errand.answer(run_files_tool(errand, ["send", *found.paths], stdout=errand.fds[1]))


def _edit(errand: Errand, order: m.EditFile) -> None:
    """Run the edit of a named file, between two pipes.

    Raises RefusedError if it changed.
    """
    passed, write, back = errand.fds
    found = chosen_files.ticket(errand, m.from_memory(passed), "edit")
    states = tuple(chosen_files.chosen_state(Path(os.fsdecode(p))) for p in found.paths)
    # guard: a file that is named once is edited once
    if found.states != states:
        raise RefusedError("the file has changed since you named it")
    words = [b"edit", *found.paths, order.origin.encode()]
    errand.answer(run_files_tool(errand, words, stdin=back, stdout=write))


def _save(errand: Errand, order: m.SaveFile) -> None:
    """Write a pipe's content to one of the chosen files; raises RefusedError."""
    passed, read = errand.fds
    found = chosen_files.ticket(errand, m.from_memory(passed), "save")
    if order.number >= len(found.paths):
        raise RefusedError(f"only {len(found.paths)} files were chosen")
    path, state = found.paths[order.number], found.states[order.number]
    before = order.before or state
    words = ["save", os.fsdecode(path), found.sandbox, before, str(KEEP_FREE_BYTES)]
    errand.answer(run_files_tool(errand, words, stdin=read))


def _store(errand: Errand, order: m.StoreFiles) -> None:
    """Have a jailed program keep the files in the directory for this sandbox."""
    permit = errand.permit(order.warrant, {FILE_COPY})
    # Folders that are shared while sandboxes run are never ~/Incoming or above it.
    top = incoming_folder(permit.sandbox, chosen_files.writable_places(()))
    words = ["store", str(top), permit.sandbox, str(KEEP_FREE_BYTES)]
    errand.answer(run_files_tool(errand, words, stdin=errand.fds[0]))


def _keep_pages(errand: Errand, order: m.KeepPages) -> None:
    """Have a jailed program write a PDF file; keep it until the viewer hangs up."""
    with printing.document(order.name) as path:
        words = ["pages", str(path), str(KEEP_FREE_BYTES)]
        written = run_files_tool(errand, words, stdin=errand.fds[0])
        printing.answer_kept(errand, path, written)
        errand.wait_for_hangup()


def run_files_tool(
    errand: Errand,
    words: Sequence[str | bytes],
    *,
    stdin: int = popen.DEVNULL,
    stdout: int = popen.DEVNULL,
) -> bytes:
    """Run our program for files to its end; return its standard error.

    The order is answered when it runs.  Raises UpstreamError with its last words when it
    fails.
    """

    def begun(_process: popen.Process) -> None:
        # The process has its own, whose end is the pipe's.
        fdpass.close_all(errand.fds)
        errand.answer()

    # guard: the program for files has no variable of the session
    env = {"LC_ALL": "C.UTF-8"}
    with ExitStack() as stack:
        # One file, read from memory: it need not be on a disk.
        tool, errors = (
            memory_file(stack, carried_tool(FILES.verbs)),
            memory_file(stack, b""),
        )
        code = errand.run(
            [sys.executable, "-I", f"/proc/self/fd/{tool}", *map(os.fsdecode, words)],
            env=env,
            pass_fds=[tool],
            stdin=stdin,
            stdout=stdout,
            stderr=errors,
            begun=begun,
        )
        size = os.fstat(errors).st_size
        said = os.pread(errors, _LAST_WORDS_BYTES, max(0, size - _LAST_WORDS_BYTES))
    if code:
        text = printable(said.strip(), 400)
        raise UpstreamError(
            text.removeprefix("vitrail: ")
            or f"the program for files failed with exit code {code}"
        )
    return said


_DESCRIPTORS: Mapping[type[Any], int] = MappingProxyType(
    {
        m.FindNamedFiles: 1,
        m.SendFiles: 2,
        m.EditFile: 3,
        m.SaveFile: 2,
        m.StoreFiles: 1,
        m.KeepPages: 1,
    }
)
_WORK: Mapping[type[Any], Callable[[Errand, Any], None]] = MappingProxyType(
    {
        m.OpenAddress: links.open_url,
        m.FindNamedFiles: chosen_files.find_named,
        m.FindDroppedFiles: dropped_files.find_dropped,
        m.SendFiles: _send,
        m.EditFile: _edit,
        m.SaveFile: _save,
        m.StoreFiles: _store,
        m.ChooseOnDesktop: chosen_files.choose_files,
        m.KeepPages: _keep_pages,
        m.FindUsualPrinter: printing.find_usual_printer,
        m.PrintDocument: printing.print_document,
    }
)
