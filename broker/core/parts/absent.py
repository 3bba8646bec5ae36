"""What is said if a part is needed and not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from broker.core.distribution import install_command
from broker.core.errors import SetupError
from broker.core.parts.table import PARTS, package, part_of


class AbsentPartError(SetupError):
    """A part that is needed is not installed; ``package`` has it."""

    def __init__(self, package: str, what: str, where: str) -> None:
        super().__init__(
            f"{what} is in the package {package}, which is not installed",
            hint=install_command(package),
            where=where,
        )
        self.package = package


def is_installed(part: str) -> bool:
    """Return whether a part is on this machine."""
    try:
        found = find_spec(PARTS[part].modules[0])
    except ModuleNotFoundError:
        return False
    # A directory that a removed package left has no origin.
    return found is not None and found.origin is not None


def require(part: str, what: str, *, where: str = "") -> None:
    """Raise AbsentPartError, which says what is asked for, if a part is absent."""
    if not is_installed(part):
        raise AbsentPartError(package(part), what, where)


@contextmanager
def needed(what: str) -> Iterator[None]:
    """Import modules of a part in this block.

    Raises AbsentPartError, which says what is asked for, if the part is absent.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        part = part_of(error.name or "")
        if part is None:
            raise
        raise AbsentPartError(package(part), what, "") from error
