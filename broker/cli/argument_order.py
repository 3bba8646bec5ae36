"""Arguments of verbs in one order: the sandbox first.

Older versions had it last in ``share``, ``unshare`` and ``device``; that is understood.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from broker.cli.completion import known_sandboxes
from broker.core.errors import RefusedError
from broker.core.names import is_sandbox_name


def sandbox_first(
    first: str,
    second: str,
    known: Callable[[], Collection[str]] = known_sandboxes,
) -> tuple[str, str]:
    """Return the sandbox and the other argument, in whichever order they were given.

    Raises RefusedError where both are names of sandboxes: the wrong one must not get it.
    """
    if is_sandbox_name(first) != is_sandbox_name(second):
        return (first, second) if is_sandbox_name(first) else (second, first)
    names = known()
    # guard: an ambiguous order of arguments is refused
    if first in names and second in names:
        raise RefusedError(
            f"'{first}' and '{second}' are both names of sandboxes",
            hint=f"if the second is a folder, write it as a path: ./{second}",
        )
    return (second, first) if second in names else (first, second)
