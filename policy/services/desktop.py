"""Services of the user's own desktop: ``services.d/NAME.toml``, each with its jail.

The session child that starts such a service reads its file, and brokerctl lists them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from policy.errors import Problem, Span
from policy.records.document import read_document
from policy.records.field_types import Field
from policy.records.mounts.user_files import directories_between
from policy.records.patterns import PATHS
from policy.records.quantities import YesNo
from policy.services.fields import COMMAND, CONCURRENT, take_fields

FOLDER = "services.d"
"""In the user's own directory of settings, and no other."""

FIELDS = (
    COMMAND,
    Field("read", PATHS, "Files and directories that the program can read.", []),
    Field("write", PATHS, "Files and directories that the program can change.", []),
    Field("network", YesNo(), "Access to the desktop's network.", default=False),
    CONCURRENT,
)


class DesktopService(NamedTuple):
    """A program of the user's that sandboxes call, and what its jail has."""

    command: tuple[str, ...]
    read: tuple[Path, ...]
    write: tuple[Path, ...]
    network: bool
    concurrent: int


def parse_service(
    file: Path, content: bytes
) -> tuple[DesktopService | None, list[Problem]]:
    """Parse a file of one desktop service; return it, or its problems.

    Pure: ``file`` only names it.
    """
    text = content.decode("utf-8", "replace").replace("\r\n", "\n")
    lines, problems = text.split("\n"), list[Problem]()

    def complain(span: Span, message: str, expected: str, hint: str) -> None:
        line = lines[span.line - 1] if span.line <= len(lines) else ""
        problems.append(Problem(str(file), span, message, expected, hint, line))

    document = read_document(text, complain)
    values = take_fields(
        FIELDS,
        document.values,
        (),
        lambda path, *words: complain(document.span(path), *words),
    )
    if values is None or problems:
        return None, problems
    read, write = (tuple(map(Path, values[key])) for key in ("read", "write"))
    service = DesktopService(
        values["command"],
        read,
        (*write, *directories_between(read, write)),
        values["network"],
        values["concurrent"],
    )
    return service, []
