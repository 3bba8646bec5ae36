"""Errors, sorted by whose fault they are.

An error that a user may see carries three things: what happened (the
message), where (``where``, for policy ``file:line:column``) and what to do
next (``hint``).  ``str()`` gives the first line; ``diagnostics()`` the whole.
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\[Errno -?\d+\] ")
"""How the text of an OSError begins; what follows says the same in words."""


class VitrailError(Exception):
    """Base of all our errors; never raised itself.

    ``hint`` is one sentence that says what to do; ``where`` names the place.
    """

    def __init__(self, message: str, *, hint: str = "", where: str = "") -> None:
        if type(self) is VitrailError:
            raise TypeError("raise a subclass that says whose fault it is")
        self.message = _NUMBER.sub("", message)
        super().__init__(self.message)
        self.hint = hint
        self.where = where

    # Not marked as an override: short verbs of brokerctl load nothing else of
    # typing_extensions, which takes a tenth of their time.
    def __str__(self) -> str:  # type: ignore[explicit-override]
        return f"{self.where}: {self.message}" if self.where else self.message

    def diagnostics(self) -> str:
        """The text for a user: what, where, and what to do next."""
        return f"{self}\n  hint: {self.hint}" if self.hint else str(self)


class PeerError(VitrailError):
    """A peer (a sandbox) broke a protocol or a limit; its connection ends."""


class RefusedError(VitrailError):
    """A request that policy, a lease or a record does not allow."""


class UpstreamError(VitrailError):
    """Trusted software beside us (compositor, QEMU, the kernel) failed."""


class SetupError(VitrailError):
    """The machine or the configuration is not as it must be; a user can mend it."""


class IntegrityError(VitrailError):
    """Recorded data was changed, by a user, a program or a failing disk."""


class InternalError(VitrailError):
    """An internal error; whatever was being done ends, nothing is guessed."""


def sole(error: Exception) -> Exception:
    """Return the one error inside the groups of nurseries; a group of several stays."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
