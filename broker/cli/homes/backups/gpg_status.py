"""What gpg reports about a file that it decrypts: was it closed by a key, and by which.

``gpg --decrypt`` also writes out the content of a file that is only stored, compressed
or signed, and its exit code is 0.  Its status lines tell (GnuPG's ``doc/DETAILS``).
"""

from __future__ import annotations

_LINE_BYTES = 16384
"""More than the longest line of gpg's: an escaped user id of 2,048 bytes."""
_PREFIX = b"[GNUPG:] "
_STEPS = (
    b"BEGIN_DECRYPTION",
    b"PLAINTEXT",
    b"DECRYPTION_OKAY",
    b"GOODMDC",
    b"END_DECRYPTION",
)
_KEPT = len(_STEPS) + 1


class GpgStatus:
    """Reads the lines of ``--status-fd``, of any number, and keeps the proved facts.

    The lines are gpg's own; their number and the names in them are the file's.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._is_unreadable = False
        self._steps: list[bytes] = []
        self._has_public_key = self._has_passphrase = self._has_failed = False

    def feed(self, data: bytes) -> None:
        """Parse a piece of gpg's ``--status-fd`` output; incomplete lines are kept."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._rest) > _LINE_BYTES:
            self._is_unreadable, self._rest = True, b""

    def _take(self, line: bytes) -> None:
        """Handle one status line of gpg."""
        if not line.startswith(_PREFIX):
            self._is_unreadable = True
            return
        keyword = line[len(_PREFIX) :].split(b" ", 1)[0]
        if keyword in _STEPS and len(self._steps) < _KEPT:
            self._steps.append(keyword)
        self._has_failed |= keyword == b"DECRYPTION_FAILED"
        self._has_public_key |= keyword == b"ENC_TO"
        self._has_passphrase |= keyword == b"NEED_PASSPHRASE_SYM"

    @property
    def opens_nothing(self) -> bool:
        """Return whether the passphrase of an encrypted file was not the right one."""
        begun = b"PLAINTEXT" in self._steps
        return self._has_failed and self._has_passphrase and not begun

    def why_not_closed(self, *, by_passphrase: bool) -> str | None:
        """Return what the file lacks to be encrypted to a key; None if nothing.

        ``by_passphrase``: whether a passphrase alone must open it.  Anybody
        can encrypt to a public key, and gpg uses such a key without a question.
        """
        # guard: a backup is closed by a key
        if b"BEGIN_DECRYPTION" not in self._steps:
            return (
                "the backup is not encrypted, so any user could have written the backup"
            )
        # guard: a backup named with a passphrase is closed by it alone
        if by_passphrase and (self._has_public_key or not self._has_passphrase):
            return "the backup is encrypted to a public key, not with the passphrase"
        # guard: all of a backup is inside what the key protects
        if self._is_unreadable or tuple(self._steps) != _STEPS:
            return "parts of the backup can be changed without the key"
        return None
