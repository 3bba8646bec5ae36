"""Tables of the whole way, and the verdict about ``auto``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import Any

MEASURES = {
    "up MB/s": ("up", 0),
    "down MB/s": ("down", 0),
    "ping p50 us": ("ping", 0),
    "ping p99 us": ("ping", 1),
    "setup conn/s": ("setup", 0),
}
CPU = "CPU s/GB"
"""Processor time of what moves the bytes of ``up`` and ``down``: the brokers' pumps, or
both socats; absent where it was not measured."""
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
    if raw[SOCAT].get(CPU):
        ours, theirs = (f"{median(raw[peer][CPU]):.3g}" for peer in (OURS, SOCAT))
        ratio = f"{within(raw, OURS, SOCAT, CPU):.2f}"
        lines.append(f"| {CPU} | {ours} | {theirs} | | {ratio} |")
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
    control: tuple[float, float]
    """The same against the mode that auto *was*, ordered, so one thing against
    itself: the quartiles of its repetitions."""
    same: bool
    """Whether auto is the better mode itself."""
    verdict: str
    """met, missed, or unsettled: one thing twice differs by more than is asked."""


def _auto(values: Values, side: str) -> str:
    """Under which name that hop is with the broker's choice."""
    return f"{side} auto" if f"{side} auto" in values else OURS


def legs(raw: dict[str, Any]) -> list[Leg]:
    """Judge each hop by the medians of both modes."""
    values, found = raw["values"], []
    for side in SIDES:
        for name in JUDGED:
            rate = name.endswith("/s")
            of = {
                mode: median(values[f"{side} {mode}"][name])
                for mode in ("splice", "copy")
            }
            better = (max if rate else min)(of, key=lambda mode: of[mode])
            took = raw["auto"][side]
            share = _share(values, side, took, better, name)
            share = share if rate else 1 / share
            control = _control(values, side, took, name)
            found.append(
                Leg(
                    side,
                    name,
                    took,
                    better,
                    share,
                    control,
                    took == f"{better} / {better}",
                    "",
                )
            )
    return [replace(leg, verdict=_verdict(leg)) for leg in found]


def _share(values: Values, side: str, took: str, better: str, name: str) -> float:
    """Of what the better mode does; by medians, as all are in each repetition.

    Where ``auto`` was one mode both ways, as the brokers told of each stream, that
    mode ordered was the same code at another moment: both count, together.  Where
    that is the better mode, nothing is left to be compared but those two moments.
    """
    same = next((m for m in ("splice", "copy") if took == f"{m} / {m}"), "")
    if same == better:
        return 1.0
    mine = list(values[_auto(values, side)][name])
    mine += values[f"{side} {same}"][name] if same else []
    return median(mine) / median(values[f"{side} {better}"][name])


def _control(values: Values, side: str, took: str, name: str) -> tuple[float, float]:
    """How much one thing differs from itself here; 1 where nothing tells."""
    for mode in ("splice", "copy"):
        if took == f"{mode} / {mode}":
            ours = values[_auto(values, side)][name]
            pairs = zip(ours, values[f"{side} {mode}"][name], strict=True)
            ratios = [a / b for a, b in pairs]
            if len(ratios) < 2:
                break
            low, _, high = quantiles(ratios, n=4, method="inclusive")
            return (low, high) if name.endswith("/s") else (1 / high, 1 / low)
    return 1.0, 1.0


def _verdict(leg: Leg) -> str:
    if leg.share >= GOAL:
        return "met"
    low, high = leg.control
    return "missed" if low >= GOAL and high <= 1 / GOAL else "unsettled"


def leg_table(way: str, raw: dict[str, Any]) -> str:
    """Markdown: each hop's modes, and the verdict."""
    values = raw["values"]
    lines = [
        f"| {way}: hop | measure | auto is | auto | splice | copy | of the better | of itself |",
        "| --- | --- | --- |" + " ---: |" * 5,
    ]
    found = legs(raw)
    for leg in found:
        auto = _auto(values, leg.side)
        names = (auto, f"{leg.side} splice", f"{leg.side} copy")
        cells = [f"{median(values[peer][leg.measure]):.4g}" for peer in names]
        mark = {"met": "", "missed": " **missed**"}.get(leg.verdict, " unsettled")
        low, high = leg.control
        share = "is it" if leg.same else f"{leg.share:.2f}{mark}"
        cells += [share, f"{low:.2f} to {high:.2f}"]
        what = f"| {leg.side} | {leg.measure} | {leg.took} | "
        lines.append(what + " | ".join(cells) + " |")
    count = Counter(leg.verdict for leg in found)
    missed, unsettled = count["missed"], count["unsettled"]
    verdict = (
        f"auto reaches {GOAL} of the better mode in {count['met']} of {len(found)}"
    )
    if missed:
        verdict += f", misses it in {missed}"
    if unsettled:
        verdict += (
            f"; {unsettled} unsettled: one thing measured twice differs by more than "
            "that on this machine now"
        )
    return "\n".join(lines) + f"\n\nVerdict: {verdict}."
