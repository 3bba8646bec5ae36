"""Output of brokerctl: tables for people, JSON for scripts, errors."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from broker.core.errors import VitrailError
from broker.core.escape import displayed

if TYPE_CHECKING:
    from rich.console import Console

# rich is imported where something is printed with it: that takes a third of the
# time of a verb that prints JSON, or of --help.

# A JSON value; recursive aliases are not understood by click's introspection.
Json = object

_PIPE_COLUMNS = 100_000


def error(problem: VitrailError) -> None:
    """Print an error as people read it, on standard error."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    # Not wrapped: the user's terminal does that, and a log is better searched.
    told = displayed(str(problem))
    console.print(Text("error: ", style="bold red") + Text(told), soft_wrap=True)
    if problem.hint:
        told = displayed(problem.hint)
        console.print(Text("  hint: ", style="bold") + Text(told), soft_wrap=True)


def note(text: str) -> None:
    """Print a line for the user on standard error; it is not the result."""
    text = displayed(text)
    if not sys.stderr.isatty():
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
        return
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False).print(Text(text), soft_wrap=True)


def written_files(
    paths: Iterable[Path], *, as_json: bool, add_to: Path | None = None
) -> None:
    """Print the files that a command wrote; ``add_to`` is one for the user to edit."""
    if as_json:
        words = [str(path) for path in paths]
        json_line({"written": words, "add_to": add_to and str(add_to)})
        return
    for path in paths:
        note(f"wrote {path}")


def cause(error: Exception) -> str:
    """Return the cause of an error for the end of a message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return str(error)


def json_text(value: Json) -> str:
    """A JSON value in one line of printable ASCII."""
    # DEL is the one control character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=True, sort_keys=True).replace(
        "\x7f", "\\u007f"
    )


def json_line(value: Json) -> None:
    """Print a value as one line of JSON on standard output."""
    sys.stdout.write(f"{json_text(value)}\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; cells are plain text, never markup."""
    from rich.table import Table
    from rich.text import Text

    out = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        out.add_column(displayed(column), overflow="fold")
    for row in rows:
        out.add_row(*[Text(_one_line(cell)) for cell in row])
    wide_console().print(out)


def _one_line(text: str) -> str:
    """A cell in one line, escaped: a path or a version may have line ends."""
    # guard: no cell of a table is a row of its own
    text = text.replace("\n", r"\x0a").replace("\t", r"\x09")
    return displayed(text)


def wide_console() -> Console:
    """Return a console for tables: as wide as the terminal, or as the table in a pipe.

    A pipe has no width; rich assumes 80 columns and would break or cut cells.
    """
    console = plain_console()
    if not console.is_terminal:
        console.width = _PIPE_COLUMNS
    return console


def plain_console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """Return a console without highlights; a reader that leaves is BrokenPipeError.

    rich would exit with 1, which has another meaning in verbs that search.
    """
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    return PlainConsole(stderr=stderr, highlight=False, soft_wrap=soft_wrap)


def size(number: int) -> str:
    """Format a number of bytes: ``1.5 MiB``."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def count(number: int, noun: str, plural: str = "") -> str:
    """A number of things: ``1 rule``, ``2 rules``; ``plural`` if it is not with s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def seconds(value: float) -> str:
    """A duration as people read it: ``3.2 s``, ``4 min``, ``2.5 h``."""
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
