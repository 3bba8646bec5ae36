"""The user's files, each touched by a separate program in a jail of its own.

``shims/files`` reads and keeps files here as it does in a guest: so one receiver is
tested against every trick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.files.planted_links import incoming_folder
from broker.helpers.process import popen
from broker.helpers.process.memory_file import memory_file
from broker.helpers.tools.profiles import FILES
from broker.ipc.session import file_orders as m
from broker.session import printing
from broker.session.order_exchange import OrderExchange
from broker.session.read_warrant import FileTicket
from broker.session.transfer import chosen_files
from broker.wire import fdpass
from broker.wire.row import serves
from policy.names import ADMIN
from shims.bundle import carried_tool

KEEP_FREE_BYTES = 100 << 20
_LAST_WORDS_BYTES = 1 << 16


@serves(m.SEND_FILES)
def send_files(exchange: OrderExchange, _request: m.SendFiles) -> None:
    """Send the files of a ticket."""
    found = chosen_files.ticket(exchange, m.from_memory(exchange.fds[0]), "send")
    _send(exchange, found)


@serves(m.SEND_DROPPED_FILES)
def send_dropped_files(exchange: OrderExchange, _request: m.SendDroppedFiles) -> None:
    """Send the files of a ticket that were dropped on a sandbox's window."""
    found = chosen_files.ticket(exchange, m.from_memory(exchange.fds[0]), "drop")
    permit = exchange.permit
    # guard: files that were dropped go where a rule lets the user's files go
    if (permit.source, permit.target) != (ADMIN, found.sandbox):
        raise RefusedError(
            f"the permit is for files from {permit.source or permit.sandbox} to {permit.target}, not for files that were dropped on {found.sandbox}"
        )
    _send(exchange, found)


def _send(exchange: OrderExchange, found: FileTicket) -> None:
    """Write the entries of files into the order's pipe, and answer at its end."""
    words = [b"send", *found.paths]
    written = run_files_tool(exchange, words, stdout=exchange.fds[1])
    exchange.answer(m.FilesProgramEnded(written))


@serves(m.EDIT_FILE)
def edit_file(exchange: OrderExchange, order: m.EditFile) -> None:
    """Run the edit of a named file, between two pipes.

    Raises RefusedError if it changed.
    """
    passed, write, back = exchange.fds
    found = chosen_files.ticket(exchange, m.from_memory(passed), "edit")
    states = tuple(chosen_files.chosen_state(Path(os.fsdecode(p))) for p in found.paths)
    # guard: a file that is named once is edited once
    if found.states != states:
        raise RefusedError("the file has changed since you named it")
    words = [b"edit", *found.paths, order.origin.encode()]
    exchange.answer(
        m.FilesProgramEnded(run_files_tool(exchange, words, stdin=back, stdout=write))
    )


@serves(m.SAVE_FILE)
def save_file(exchange: OrderExchange, order: m.SaveFile) -> None:
    """Write a pipe's content to one of the chosen files; raises RefusedError."""
    passed, read = exchange.fds
    found = chosen_files.ticket(exchange, m.from_memory(passed), "save")
    if order.number >= len(found.paths):
        raise RefusedError(f"only {len(found.paths)} files were chosen")
    path, state = found.paths[order.number], found.states[order.number]
    before = order.before or state
    words = ["save", os.fsdecode(path), found.sandbox, before, str(KEEP_FREE_BYTES)]
    exchange.answer(m.FilesProgramEnded(run_files_tool(exchange, words, stdin=read)))


@serves(m.STORE_FILES)
def store_files(exchange: OrderExchange, _request: m.StoreFiles) -> None:
    """Have a jailed program keep the files in the directory for this sandbox."""
    permit = exchange.permit
    # Folders that are shared while sandboxes run are never ~/Incoming or above it.
    top = incoming_folder(permit.sandbox, chosen_files.writable_places(()))
    words = ["store", str(top), permit.sandbox, str(KEEP_FREE_BYTES)]
    exchange.answer(
        m.FilesProgramEnded(run_files_tool(exchange, words, stdin=exchange.fds[0]))
    )


@serves(m.KEEP_PAGES)
def keep_pages(exchange: OrderExchange, order: m.KeepPages) -> None:
    """Have a jailed program write a PDF file; keep it until the viewer hangs up."""
    with printing.document(order.name) as path:
        words = ["pages", str(path), str(KEEP_FREE_BYTES)]
        written = run_files_tool(exchange, words, stdin=exchange.fds[0])
        printing.answer_kept(exchange, path, written)
        exchange.wait_for_hangup()


def run_files_tool(
    exchange: OrderExchange,
    words: Sequence[str | bytes],
    *,
    stdin: int = popen.DEVNULL,
    stdout: int = popen.DEVNULL,
) -> bytes:
    """Run our program for files to its end; return its standard error.

    The order has its item when it runs.  Raises UpstreamError with its last words when it
    fails.
    """

    def begun(_process: popen.Process) -> None:
        # The process has its own, whose end is the pipe's.
        fdpass.close_all(exchange.fds)
        exchange.emit(m.ProgramRuns())

    # guard: the program for files has no variable of the session
    env = {"LC_ALL": "C.UTF-8"}
    with ExitStack() as stack:
        # One file, read from memory: it need not be on a disk.
        tool, errors = (
            memory_file(stack, carried_tool(FILES.verbs)),
            memory_file(stack, b""),
        )
        code = exchange.run(
            [sys.executable, "-I", f"/proc/self/fd/{tool}", *map(os.fsdecode, words)],
            env=env,
            pass_fds=[tool],
            stdin=stdin,
            stdout=stdout,
            stderr=errors,
            on_start=begun,
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
