"""Pixel formats of wl_shm: those whose size we know.

A buffer's last row must end inside its pool, and how long a row is depends on
the format.  libwayland asks for one byte a pixel only, and not every
compositor looks again: weston 10 reads on after the pool and dies.  So a format that
is not here is neither advertised nor accepted; those with several planes are not,
because their size follows other rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_ARGB8888, _XRGB8888 = 0, 1
"""wl_shm's own numbers; all others are DRM's four letters."""

_LETTERS = {
    2: "XR12 AR12 XB12 AB12 RX12 RA12 BX12 BA12 "
    "XR15 AR15 XB15 AB15 RX15 RA15 BX15 BA15 RG16 BG16",
    3: "RG24 BG24",
    4: "XB24 AB24 RX24 RA24 BX24 BA24 XR30 AR30 XB30 AB30 RX30 RA30 BX30 BA30",
    8: "XR48 AR48 XB48 AB48 XR4H AR4H XB4H AB4H",
}

PIXEL_BYTES: Mapping[int, int] = MappingProxyType(
    {_ARGB8888: 4, _XRGB8888: 4}
    | {
        int.from_bytes(code.encode(), "little"): size
        for size, codes in _LETTERS.items()
        for code in codes.split()
    }
)
"""Format (wl_shm.format) to bytes of one pixel."""
