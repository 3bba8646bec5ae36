"""Kinds of amounts in a record: yes or no, bytes, times, Wayland globals.

Bytes and times are written as in rules (``64K``, ``10m``), so that a user
learns one way.

The authority, session children and brokerctl run this when they read records.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from policy.records.field_types import Complain, Path, is_whole, refuse
from policy.records.globals import NEVER, OPTIONS, USUAL
from policy.suggestions import did_you_mean

BYTES_FORM = "([1-9][0-9]{0,15})([KMGT]?)"
TIME_FORM = "([1-9][0-9]{0,8})([smhd])"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class YesNo:
    """``true`` or ``false``."""

    @property
    def words(self) -> str:
        """The two words."""
        return "true or false"

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate true or false; see ``Kind``."""
        if isinstance(value, bool):
            return value
        hint = ""
        # An array or a table has no hash, and one such record ended the reading of all.
        # guard: an array is refused as any other value is
        if isinstance(value, str) and value in {"true", "false"}:
            hint = f"write {value}, without quotation marks"
        return refuse(self, value, path, complain, hint)


@dataclass(frozen=True)
class Bytes:
    """An amount of data: bytes, or text such as ``"64K"``, ``"10M"``, ``"2G"``."""

    low: int
    high: int

    @property
    def range_words(self) -> str:
        """The range alone."""
        return f"a size from {written_bytes(self.low)} to {written_bytes(self.high)}"

    @property
    def words(self) -> str:
        """The range and the ways to write it."""
        return f'{self.range_words}, such as 64000 (bytes), "64K", "10M" or "2G"'

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate a number of bytes; see ``Kind``.

        The clean value is an int in bytes.
        """
        amount: object = value
        if isinstance(value, str) and (found := re.fullmatch(BYTES_FORM, value)):
            amount = int(found[1]) << 10 * " KMGT".index(found[2] or " ")
        if is_whole(amount, self.low, self.high):
            return amount
        hint = ""
        if isinstance(value, str) and (
            found := re.fullmatch(BYTES_FORM + "i?B", value)
        ):
            hint = f'write "{found[1]}{found[2]}"'
        return refuse(self, value, path, complain, hint)


def written_bytes(amount: int) -> str:
    """Return an amount of data as a user writes it."""
    for unit, shift in (("T", 40), ("G", 30), ("M", 20), ("K", 10)):
        if amount and amount % (1 << shift) == 0:
            return f"{amount >> shift}{unit}"
    return str(amount)


@dataclass(frozen=True)
class Seconds:
    """A time: text such as ``"30s"``, ``"10m"``, ``"2h"``, ``"1d"``."""

    low: int
    high: int

    @property
    def range_words(self) -> str:
        """The range alone."""
        return f"a time from {written_time(self.low)} to {written_time(self.high)}"

    @property
    def words(self) -> str:
        """The range and the ways to write it."""
        return f'{self.range_words}, such as "30s", "10m" or "2h"'

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate a time; see ``Kind``; the clean value is an int in seconds."""
        found = re.fullmatch(TIME_FORM, value) if isinstance(value, str) else None
        amount = int(found[1]) * _SECONDS[found[2]] if found else None
        if is_whole(amount, self.low, self.high):
            return amount
        hint = ""
        plain = isinstance(value, str) and value.isascii() and value.isdigit()
        if plain or is_whole(value, self.low, self.high):
            hint = f'write "{str(value)[:12]}s" for seconds'
        return refuse(self, value, path, complain, hint)


def written_time(amount: int) -> str:
    """Return a number of seconds as a user writes it."""
    for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60)):
        if amount and amount % seconds == 0:
            return f"{amount // seconds}{unit}"
    return f"{amount}s"


NEEDED = frozenset(
    {
        "wl_compositor",
        "wl_subcompositor",
        "wl_shm",
        "wl_seat",
        "wl_output",
        "xdg_wm_base",
    }
)
"""Globals without which no application starts; ``display = "none"`` is for that."""


@dataclass(frozen=True)
class GlobalName:
    """A Wayland global that a record may allow, or (``deny``) take away."""

    deny: bool = False

    @property
    def words(self) -> str:
        """The names."""
        return ", ".join(self.names)

    @property
    def names(self) -> list[str]:
        """Those that may be written."""
        if not self.deny:
            return sorted(OPTIONS)
        return sorted({*USUAL, *OPTIONS} - NEEDED)

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate the name of a Wayland global; see ``Kind``."""
        if not isinstance(value, str):
            return refuse(self, value, path, complain)
        if value in self.names:
            return value
        if self.deny and value in NEEDED:
            hint = 'to forbid all windows, set display = "none"'
            return refuse(self, value, path, complain, hint)
        if value in NEVER:
            hint = f"no sandbox may use it: {NEVER[value]}"
            if not self.deny:
                hint = f"no record can allow it: {NEVER[value]}"
            return refuse(self, value, path, complain, hint)
        if value in USUAL:
            hint = "remove it; every sandbox may use it"
            return refuse(self, value, path, complain, hint)
        return refuse(self, value, path, complain, did_you_mean(value, self.names))
