"""Common parts of the installers of hooks and menu entries: whose they are, failures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.cli import render
from broker.core.errors import SetupError


def sudo_caller() -> int:
    """Return the number of the user who called sudo(8), 0 if that is unknown."""
    return int(os.environ.get("SUDO_UID", "0"))


@contextmanager
def setup_errors(problem: str, *, hint: str = "") -> Iterator[None]:
    """Raise SetupError for an OSError of the block: the problem, the reason, the file."""
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"{problem}: {error.strerror}",
            where=str(error.filename or ""),
            hint=hint,
        ) from error


def hook_written(hint: str = "") -> AbstractContextManager[None]:
    """Write a hook's files in the block.  It raises SetupError where that fails."""
    return setup_errors("cannot install the hook", hint=hint)


@dataclass(frozen=True)
class SetupWords:
    """The words of 'install'; ``app`` is empty if none exists."""

    uid: int | None
    app: str
    as_json: bool


@dataclass(frozen=True)
class Setup:
    """A program whose sandboxes can be set up; ``remove`` gets the application."""

    program: str
    install: Callable[[SetupWords], None]
    remove: Callable[[str], None]
    of_an_app: bool = False


def remove_files(paths: Iterable[Path]) -> None:
    """Remove existing files, and print their paths."""
    for path in paths:
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        render.note(f"removed {path}")
