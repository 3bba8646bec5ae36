"""Whether people can distinguish colours: distance, contrast, colour blindness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

Row = tuple[float, float, float]

# Machado, Oliveira, Fernandes: A Physiologically-based Model for Simulation of
# Color Vision Deficiency (2009), severity 1.0, on linear RGB.
SIGHTS: Mapping[str, tuple[Row, Row, Row]] = MappingProxyType(
    {
        "usual sight": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
        "protanopia": (
            (0.152286, 1.052583, -0.204868),
            (0.114503, 0.786281, 0.099216),
            (-0.003882, -0.048116, 1.051998),
        ),
        "deuteranopia": (
            (0.367322, 0.860646, -0.227968),
            (0.280085, 0.672501, 0.047413),
            (-0.011820, 0.042940, 0.968881),
        ),
        "tritanopia": (
            (1.255528, -0.076749, -0.178779),
            (-0.078411, 0.930809, 0.147602),
            (0.004733, 0.691367, 0.303900),
        ),
    }
)
"""How red, green and blue are seen."""

APART = 15.0
"""Least CIE76 distance of two frames' colours; 2.3 is just noticeable side by
side, and frames are not side by side."""

FAINT = 1.25
"""Least contrast (WCAG 2) of a frame with the white or black beside it."""


def _linear(colour: str) -> list[float]:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]


def seen(colour: str, sight: str) -> Row:
    """Return CIE L*a*b* of ``#rrggbb`` as seen with a colour blindness."""
    linear = _linear(colour)
    r, g, b = (
        min(1.0, max(0.0, sum(a * c for a, c in zip(row, linear, strict=True))))
        for row in SIGHTS[sight]
    )
    x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883
    fx, fy, fz = (
        t ** (1 / 3) if t > 0.008856 else 7.787 * t + 4 / 29 for t in (x, y, z)
    )
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def distance(one: Row, other: Row) -> float:
    """Return the CIE76 distance of two colours as they are seen."""
    gaps = (a - b for a, b in zip(one, other, strict=True))
    return float(sum(gap * gap for gap in gaps) ** 0.5)


class Seen:
    """Colours as all sights see them, each computed once."""

    def __init__(self, colours: Sequence[str]) -> None:
        self._seen = {
            colour: [seen(colour, sight) for sight in SIGHTS]
            for colour in dict.fromkeys(colours)
        }

    def alike(self, one: str, other: str) -> str:
        """Return the first sight that takes one for the other, or nothing."""
        pairs = zip(SIGHTS, self._seen[one], self._seen[other], strict=True)
        return next((s for s, a, b in pairs if distance(a, b) <= APART), "")


def luminance(colour: str) -> float:
    """Return the relative luminance of ``#rrggbb`` (WCAG 2), 0 to 1."""
    r, g, b = _linear(colour)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours (WCAG 2), 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def faint(colour: str) -> str:
    """Return the background against which it cannot be seen, or nothing."""
    for name, beside in (("white", "#ffffff"), ("black", "#000000")):
        if contrast(colour, beside) < FAINT:
            return name
    return ""


def ink(colour: str) -> str:
    """Return black or white, whichever reads better on a colour."""
    white, black = contrast(colour, "#ffffff"), contrast(colour, "#000000")
    return "#ffffff" if white > black else "#000000"
