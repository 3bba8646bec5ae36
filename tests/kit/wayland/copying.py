"""``wl-copy`` for tests in which other windows come and go meanwhile."""

from __future__ import annotations

_LOOP = 'f=$0; while :; do wl-copy --foreground "$@" < "$f" || exit; done'


def copying(content: str, *options: str) -> tuple[str, ...]:
    """The command that keeps the content of a file selected.

    ``wl-copy`` opens a window to get the keyboard and ends when its selection is
    refused, as it is where a second window has taken the keyboard before the request
    arrived.  A person would copy again, and so does this command.
    """
    return ("sh", "-c", _LOOP, content, *options)
