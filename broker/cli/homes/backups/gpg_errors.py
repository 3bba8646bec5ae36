"""What gpg and age say when they fail, for users: translated, or quoted."""

from __future__ import annotations

import os
from collections.abc import Mapping

from broker.core.errors import RefusedError, SetupError, UpstreamError, VitrailError

_PASSPHRASE = "specify the right one with --passphrase-file FILE, or type it again"  # noqa: S105 -- a hint
_NO_TERMINAL = "specify the passphrase with --passphrase-file FILE"
_TRANSLATED: tuple[tuple[str, type[VitrailError], str, str], ...] = (
    ("Bad session key", RefusedError, "the passphrase is wrong", _PASSPHRASE),
    ("Bad passphrase", RefusedError, "the passphrase is wrong", _PASSPHRASE),
    (
        "no valid OpenPGP data found",
        RefusedError,
        "the file is not a backup: neither gpg nor age has encrypted it",
        "specify a file that 'brokerctl sandbox backup' wrote",
    ),
    (
        "No secret key",
        SetupError,
        "the backup is encrypted to a key that your keyring lacks",
        "import the secret key first: gpg --import FILE",
    ),
    (
        "skipped: ",
        SetupError,
        "your keyring lacks the recipient's key",
        "import it first: gpg --import FILE; 'gpg --list-keys' shows those that you have",
    ),
    ("No pinentry", SetupError, "gpg cannot ask for the passphrase", _NO_TERMINAL),
    (
        "Inappropriate ioctl",
        SetupError,
        "gpg cannot ask for the passphrase",
        _NO_TERMINAL,
    ),
    (
        "Operation cancelled",
        RefusedError,
        "gpg got no passphrase: its dialog was closed, or waited for too long",
        "type it in gpg's dialog, or specify it with --passphrase-file FILE",
    ),
    (
        "no identity matched",
        SetupError,
        "the key of --identity does not open the backup",
        "specify the file of the key to which the backup was encrypted",
    ),
)
"""Words of gpg or age, and what they mean here; the first that fits counts."""


def understood_environment() -> Mapping[str, str]:
    """Return an environment in which gpg's words are those of the table."""
    return {**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": ""}


def asking_words() -> list[str]:
    """Return gpg's words for a dialog in the user's own language."""
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    found = next(filter(None, map(os.environ.get, names)), "")
    return ["--lc-messages", found] if found else []


def failed(program: str, said: str) -> VitrailError:
    """Return the error of a program of a backup that failed with these words."""
    for words, kind, text, hint in _TRANSLATED:
        if words in said:
            return kind(text, hint=hint)
    return UpstreamError(
        f"{program} failed; it said: {said}",
        hint="check free disk space, the file and the key; the words are the "
        "program's own",
    )
