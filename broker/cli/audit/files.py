"""Writing command output into a file: whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import rich_click as click

from broker.core.errors import UpstreamError


def write_out(path: Path, texts: Iterable[str], *, force: bool) -> None:
    """Write the texts to the file, or to standard output for ``-``.

    The file is only its owner's to read.  Raises UsageError when it is there
    already and not to be replaced, UpstreamError when the disk refuses.
    """
    if str(path) == "-":
        for text in texts:
            sys.stdout.write(text)
        return
    if path.exists() and not force:
        raise click.UsageError(f"{path} is there already: --force replaces it")
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123
                file.writelines(texts)
                file.flush()
                os.fsync(fd)
            fresh.replace(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UpstreamError(f"{path} cannot be written: {error.strerror}") from error
