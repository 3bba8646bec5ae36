"""The user's own secret phrase, which an imitation of the dialog cannot know.

A file of the user's (0600).  No process in a sandbox can read it, and no window
of a sandbox can see the dialog, so a picture of a dialog in a guest's window
lacks it, or has another one.

The authority sends the phrase to the prompt agent, and makes the file if there is none;
``brokerctl prompt`` shows and replaces it.
"""

from __future__ import annotations

import os
import secrets
from importlib import resources
from pathlib import Path

from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.files.replace_file import replace_file
from broker.core.paths import Paths

_NUMBER = 3
"""Words of our phrase: a million of them, and one guess is seen."""


def phrase_file(paths: Paths) -> Path:
    """Where it is."""
    return paths.state / "prompt-phrase"


def _read_phrase_list() -> list[str]:
    """Return words of lower-case letters, which each keyboard layout has."""
    words = resources.files("broker") / "data" / "phrase-words.txt"
    return words.read_text(encoding="ascii").split()


def new_phrase() -> str:
    """Return a phrase of random words."""
    known = _read_phrase_list()
    return " ".join(secrets.choice(known) for _ in range(_NUMBER))


def choose_yes_text(phrase: str) -> str:
    """Return a random word for a question, which is typed as a yes.

    A word that the user's phrase has is not chosen.
    """
    # guard: a question has its own word for a yes
    return secrets.choice(list(set(_read_phrase_list()) - set(phrase.split())))


def take_phrase(text: str) -> str:
    """Validate a phrase and return it as it is stored.  Raises RefusedError."""
    phrase = " ".join(text.split())
    least, most = limits.PHRASE_CHARS
    if printable(phrase, 4 * most) != phrase or not least <= len(phrase) <= most:
        raise RefusedError(
            "the phrase is invalid",
            hint=f"use {least} to {most} printable characters without '\\'",
        )
    return phrase


def read_phrase(paths: Paths) -> str:
    """Read the phrase; empty when none exists, or it is not secret.

    A phrase that others can read, and a file that is not a phrase, are ignored: the
    user would trust a phrase that others know.
    """
    try:
        fd = os.open(phrase_file(paths), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            info = os.fstat(fd)
            # guard: the phrase is a secret
            if info.st_mode & 0o077 or info.st_uid != os.geteuid():
                return ""
            return take_phrase(file.read(1024).decode())
    except (OSError, UnicodeDecodeError, RefusedError):
        return ""


def write_phrase(paths: Paths, phrase: str) -> None:
    """Keep a phrase for the user alone.  Raises OSError, RefusedError."""
    taken = take_phrase(phrase)
    path = phrase_file(paths)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(path, f"{taken}\n".encode())


def ensure_phrase(paths: Paths) -> str:
    """Return the phrase; write a file with one of random words if none exists."""
    known = read_phrase(paths)
    if not known and not os.path.lexists(phrase_file(paths)):
        write_phrase(paths, new_phrase())
        known = read_phrase(paths)
    return known
