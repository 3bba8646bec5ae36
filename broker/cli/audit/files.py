"""Write command output to a file atomically."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import rich_click as click

from broker.cli.transfer.named_path import opened_target
from broker.core.errors import UpstreamError
from broker.core.escape import displayed
from broker.core.files.replace_file import whole_file


def write_out(path: Path, texts: Iterable[str], *, force: bool) -> None:
    """Write the texts to the file, or to standard output for ``-``.

    The file is only its owner's to read.  On a terminal, unprintable characters are
    escaped.  Raises UsageError when the file is there already and not to be replaced,
    UpstreamError when the disk refuses.
    """
    if str(path) == "-":
        # JSON escapes ESC, and no control character above 0x7f.
        # guard: raw events drive no terminal
        fit = displayed if sys.stdout.isatty() else str
        for text in texts:
            sys.stdout.write(fit(text))
        return
    if path.exists() and not force:
        raise _there(path)  # before the work, which may be long
    try:
        with (
            opened_target(path) as target,
            whole_file(target, replace=force) as file,
        ):
            file.writelines(text.encode() for text in texts)
    except FileExistsError as error:
        raise _there(path) from error
    except OSError as error:
        raise UpstreamError(f"cannot write {path}: {error.strerror}") from error


def _there(path: Path) -> click.UsageError:
    return click.UsageError(f"{path} already exists; to replace it, pass --force")
