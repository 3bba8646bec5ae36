"""Raw values to ratios, goals, a table and a plot.

Ratios are medians of the ratios within one repetition, so that a machine
that is slower at noon than at one o'clock does not matter; goals are ratios
to a named relay of the same run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median

Raw = dict[str, dict[str, list[float]]]
"""Relay -> measure -> one value for each repetition."""

OURS = "vitrail"
LIMIT = "C splice loop"


@dataclass(frozen=True)
class Goal:
    """``ours / against`` must be at least or at most ``bound``."""

    measure: str
    against: str
    sense: str
    bound: float
    of_medians: bool = False


GOALS = (
    Goal("bulk MB/s", "socat", ">=", 3.0),
    Goal("bulk MB/s", "socat -b 262144", ">=", 1.0, of_medians=True),
    Goal("bulk MB/s", LIMIT, ">=", 0.85),
    Goal("bulk CPU s/GB", "socat", "<=", 0.25),
    Goal("bulk CPU s/GB", "socat -b 262144", "<=", 0.85),
    Goal("ping, one CPU p50 us", "socat", "<=", 1.0),
    Goal("ping, one CPU p99 us", "socat", "<=", 1.0),
    Goal("64 streams msg/s", "socat", ">=", 1.8),
    Goal("64 streams p99 us", "socat", "<=", 0.35),
    Goal("64 streams bulk MB/s", "socat", ">=", 5.0),
    Goal("setup, 1 client conn/s", "socat", ">=", 1.7),
    Goal("setup, 8 clients conn/s", "socat", ">=", 2.5),
    Goal("bulk 4K MB/s", "socat", ">=", 1.4),
    Goal("idle kB/connection", "", "<=", 8.0),
    Goal("ping p99.9 us", "", "<=", 6000.0),
)


def ratio(raw: Raw, measure: str, one: str, other: str) -> float:
    pairs = list(zip(raw[one][measure], raw[other][measure], strict=True))
    # Memory that did not grow (or shrank by a page) is no denominator.
    if one == other:
        return 1.0
    if any(b <= 0 for _, b in pairs):
        return math.nan
    return median(a / b for a, b in pairs)


def judge(raw: Raw, goal: Goal, who: str = OURS) -> tuple[float, bool]:
    """Return the value the goal is about, and whether it is met."""
    if not goal.against:
        name = who if goal.measure in raw[who] else f"{OURS}, busy"
        value = median(raw[name][goal.measure])
    elif goal.of_medians:
        value = median(raw[who][goal.measure]) / median(raw[goal.against][goal.measure])
    else:
        value = ratio(raw, goal.measure, who, goal.against)
    return value, value >= goal.bound if goal.sense == ">=" else value <= goal.bound


def _short(value: float) -> str:
    if math.isnan(value):
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def main_table(raw: Raw) -> str:
    """Markdown: medians, with ratios to socat and to the C loop in brackets."""
    measures = list(raw[OURS])
    names = [name for name in raw if set(measures) <= set(raw[name])]
    lines = [
        "| measure | " + " | ".join(names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for measure in measures:
        cells = []
        for name in names:
            value = _short(median(raw[name][measure]))
            to_socat = _short(ratio(raw, measure, name, "socat"))
            to_limit = _short(ratio(raw, measure, name, LIMIT))
            cells.append(f"{value} ({to_socat}/{to_limit})")
        lines.append(f"| {measure} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def goal_table(raw: Raw) -> str:
    """Markdown.  The C loop's column is the upper bound of this run."""
    lines = ["| goal | vitrail | | C loop |", "| --- | ---: | --- | ---: |"]
    for goal in GOALS:
        value, met = judge(raw, goal)
        sign = {">=": "≥", "<=": "≤"}[goal.sense]
        of = f" × {goal.against}" if goal.against else ""
        limit = _short(judge(raw, goal, LIMIT)[0]) if goal.against else "-"
        verdict = "met" if met else "**missed**"
        what = f"{goal.measure}: {sign} {goal.bound:g}{of}"
        lines.append(f"| {what} | {_short(value)} | {verdict} | {limit} |")
    return "\n".join(lines)


PANELS = (
    ("bulk MB/s", "bulk, 64 KiB writes (MB/s)"),
    ("bulk CPU s/GB", "CPU of the relay (s/GB)"),
    ("ping, one CPU p50 us", "64-byte round trip, one CPU (µs)"),
    ("64 streams msg/s", "64 streams beside bulk (messages/s)"),
    ("setup, 8 clients conn/s", "connections/s, 8 clients"),
    ("idle kB/connection", "memory of an idle connection (kB)"),
)


def plot(raw: Raw, path: Path) -> None:
    """Bars of medians with every repetition as a dot."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    measures = set(raw[OURS])
    names = [name for name in raw if measures <= set(raw[name]) and name != "direct"]
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.2))
    for axis, (measure, title) in zip(axes.flat, PANELS, strict=True):
        for place, name in enumerate(reversed(names)):
            values = raw[name][measure]
            colour = "#1f6f8b" if name == OURS else "#c9c5bb"
            axis.barh(place, median(values), color=colour)
            axis.plot(values, [place] * len(values), ".", color="#444", markersize=3)
        axis.set_title(title, fontsize=9)
        axis.set_yticks(range(len(names)), list(reversed(names)), fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
        for edge in ("top", "right"):
            axis.spines[edge].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    # No date and fixed ids: the same numbers give the same file.
    mpl.rcParams["svg.hashsalt"] = "vitrail"
    figure.savefig(path, metadata={"Date": None})
