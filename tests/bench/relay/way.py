"""``python -m tests.bench.relay.way``: from the application's VM to the viewer.

The whole way, beside socat in both hops and beside no relay at all, with real
machines: over hybrid vsock (host and viewer on this machine, as with
Firecracker), and over AF_VSOCK between three machines (the lab's sibling mode,
single writes of 3,584 bytes for everybody) with the kernel of Debian 12 and with
that of Debian 13.  Machines are emulated where there is no KVM, so the ratios are
what counts.  ``audio = "raw"`` is the stream: nothing on its way reads it.

Each of the two hops is also ordered to splice and to copy, with the other one
left alone, so that a second table says whether ``auto`` takes the better one.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import os
import platform
import shutil
import sys
from pathlib import Path

import trio

from tests.bench.relay.way_places import WAYS, Length, Raw
from tests.bench.relay.way_report import GOAL, PEERS, leg_table, legs, table


async def _all(options: argparse.Namespace) -> Raw:
    found: Raw = {}
    for name, way in WAYS.items():
        if not options.only or name in options.only:
            print(f"{name}:", file=sys.stderr, flush=True)
            length = Length(
                options.repetitions, options.quick, options.seconds, options.beside
            )
            found[name] = await way(length)
    return found


def together(runs: list[Raw]) -> Raw:
    """Several runs as one: the repetitions of each, where all took the same way."""
    found: Raw = {}
    for run in runs:
        for way, raw in run.items():
            before = found.setdefault(way, raw)
            if before is raw:
                continue
            if before["auto"] != raw["auto"]:
                raise SystemExit(f"{way}: auto was another mode in one of the runs")
            for peer, measures in raw["values"].items():
                for name, values in measures.items():
                    before["values"][peer].setdefault(name, []).extend(values)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.relay.way")
    parser.add_argument("--quick", action="store_true", help="less in a repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--seconds",
        type=float,
        default=math.inf,
        help="of measuring one way, after which no further repetition begins",
    )
    parser.add_argument(
        "--beside",
        action="store_true",
        help="no order to splice or to copy: no verdict",
    )
    parser.add_argument("--only", choices=WAYS, action="append")
    parser.add_argument(
        "--read", type=Path, nargs="+", help="show earlier runs' JSON, together"
    )
    out = Path(os.environ.get("VITRAIL_OUT", "out"))
    parser.add_argument("--out", type=Path, default=out / "bench")
    options = parser.parse_args()
    if options.read:
        _show(together([json.loads(p.read_text())["raw"] for p in options.read]))
        return 0
    if shutil.which("socat") is None:
        print("missing: socat; no comparison without it")
        return 1
    found = trio.run(_all, options)
    now = dt.datetime.now(dt.UTC)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"way-{now:%Y-%m-%d-%H%M%S}.json"
    about = {
        "date": now.isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "repetitions": options.repetitions,
        "quick": options.quick,
        "goal": f"auto reaches {GOAL} of the better mode on each leg",
    }
    verdicts = {
        way: [vars(leg) for leg in legs(raw)]
        for way, raw in found.items()
        if not options.beside
    }
    path.write_text(
        json.dumps({"about": about, "raw": found, "auto": verdicts}, indent=1)
    )
    _show(found)
    print(f"\nraw values: {path}", file=sys.stderr)
    return 0


def _show(found: Raw) -> None:
    for way, raw in found.items():
        print(f"\n{table(way, raw['values'])}")
        if set(PEERS) <= raw["values"].keys():
            print(f"\n{leg_table(way, raw)}")


if __name__ == "__main__":
    sys.exit(main())
