"""Tables of the whole way, and the verdict about ``auto``."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

MEASURES = {
    "up MB/s": ("up", 0),
    "down MB/s": ("down", 0),
    "ping p50 us": ("ping", 0),
    "ping p99 us": ("ping", 1),
    "setup conn/s": ("setup", 0),
}
OURS, SOCAT, DIRECT = "vitrail", "socat", "no relay"
SIDES = ("host", "viewer")
ORDERED = {
    f"{side} {mode}": (side, mode) for side in SIDES for mode in ("splice", "copy")
}
PEERS = (OURS, *ORDERED, SOCAT, DIRECT)
BESIDE = (OURS, SOCAT, DIRECT)

GOAL = 0.90
# The tail of a round trip in an emulated machine is the emulator's: it differs more
# between two runs of one thing than two things do.
JUDGED = tuple(name for name in MEASURES if name != "ping p99 us")

Values = dict[str, dict[str, list[float]]]


def table(way: str, raw: Values) -> str:
    """Markdown: medians, and our ratio to socat within each repetition."""
    lines = [
        f"| {way} | " + " | ".join(BESIDE) + " | vitrail / socat |",
        "| --- |" + " ---: |" * (len(BESIDE) + 1),
    ]
    for name in MEASURES:
        cells = [f"{median(raw[peer][name]):.4g}" for peer in BESIDE]
        cells.append(f"{within(raw, OURS, SOCAT, name):.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def within(raw: Values, one: str, other: str, name: str) -> float:
    """The median of the ratios within one repetition."""
    pairs = zip(raw[one][name], raw[other][name], strict=True)
    return median(a / b for a, b in pairs)


@dataclass(frozen=True)
class Leg:
    """One hop and one measure: does ``auto`` reach what the better mode does?"""

    side: str
    measure: str
    took: str
    """What auto was, there: mode of each direction."""
    better: str
    share: float
    """Of the better mode; 1 is as good, below 1 is worse, whatever the unit."""
    met: bool


def _auto(values: Values, side: str) -> str:
    """Under which name that hop is with its own choice."""
    return f"{side} auto" if f"{side} auto" in values else OURS


def legs(raw: dict[str, Any]) -> list[Leg]:
    """Judge each hop by the medians of both modes, then within repetitions."""
    values, found = raw["values"], []
    for side in SIDES:
        for name in JUDGED:
            rate = name.endswith("/s")
            of = {
                mode: median(values[f"{side} {mode}"][name])
                for mode in ("splice", "copy")
            }
            better = (max if rate else min)(of, key=lambda mode: of[mode])
            share = within(values, _auto(values, side), f"{side} {better}", name)
            share = share if rate else 1 / share
            took = raw["auto"][side]
            found.append(Leg(side, name, took, better, share, share >= GOAL))
    return found


def leg_table(way: str, raw: dict[str, Any]) -> str:
    """Markdown: each hop's modes, and the verdict."""
    values = raw["values"]
    lines = [
        f"| {way}: hop | measure | auto is | auto | splice | copy | of the better |",
        "| --- | --- | --- |" + " ---: |" * 4,
    ]
    found = legs(raw)
    for leg in found:
        auto = _auto(values, leg.side)
        names = (auto, f"{leg.side} splice", f"{leg.side} copy")
        cells = [f"{median(values[peer][leg.measure]):.4g}" for peer in names]
        cells.append(f"{leg.share:.2f}" + ("" if leg.met else " **missed**"))
        what = f"| {leg.side} | {leg.measure} | {leg.took} | "
        lines.append(what + " | ".join(cells) + " |")
    missed = sum(not leg.met for leg in found)
    verdict = (
        f"auto is within {1 - GOAL:.0%} of the better mode in all {len(found)}"
        if not missed
        else f"auto misses {GOAL} of the better mode in {missed} of {len(found)}"
    )
    return "\n".join(lines) + f"\n\nVerdict: {verdict}."
