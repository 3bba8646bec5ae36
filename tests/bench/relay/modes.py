"""``python -m tests.bench.relay.modes``: is ``auto`` as good as the better mode?

The relay in ``splice``, ``copy`` and ``auto``, between UNIX sockets, in turn
within each repetition.  The last column is what ``auto`` reaches of the better
one (rates: more is better; times: less is); the goal is 0.90 everywhere.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from tests.bench.relay.measure import FULL, QUICK, Load
from tests.bench.relay.peers import Peer, _ours, await_socket, compile_c, start

MODES = ("splice", "copy", "auto")
GOAL = 0.90
Raw = dict[str, dict[str, list[float]]]


def measured(load: Load) -> list:
    return [load.bulk, load.bulk_small, load.ping_pinned, load.many, load.setup]


def reached(raw: Raw, name: str) -> float:
    """What auto reaches of the better of the other two, by medians."""
    splice, copy, auto = (median(raw[mode][name]) for mode in MODES)
    if name.endswith(("/s",)):
        return auto / max(splice, copy)
    return min(splice, copy) / auto


def table(raw: Raw) -> str:
    lines = [
        "| measure | splice | copy | auto | of the better |",
        "| --- |" + " ---: |" * 4,
    ]
    for name in raw["auto"]:
        cells = [f"{median(raw[mode][name]):.4g}" for mode in MODES]
        share = reached(raw, name)
        sign = "" if share >= GOAL else " **missed**"
        lines.append(f"| {name} | {' | '.join(cells)} | {share:.2f}{sign} |")
    return "\n".join(lines)


def run(*, quick: bool, repetitions: int) -> Raw:
    raw: Raw = {mode: {} for mode in MODES}
    with tempfile.TemporaryDirectory(prefix="modes-bench-") as name:
        folder = Path(name)
        path = folder / "server.sock"
        program = compile_c("load", folder)
        server = subprocess.Popen([program, "serve", path])
        peers: dict[str, Peer] = {}
        try:
            await_socket(path)
            load = Load(program, server.pid, QUICK if quick else FULL)
            for mode in MODES:
                words = ("--mode-in", mode, "--mode-out", mode)
                peers[mode] = start(mode, partial(_ours, more=words), folder, path)
            for number in range(repetitions):
                turn = number % len(MODES)
                for measure in measured(load):
                    for mode in MODES[turn:] + MODES[:turn]:
                        for what, value in measure(peers[mode]).items():
                            raw[mode].setdefault(what, []).append(value)
                print(f"repetition {number + 1}", file=sys.stderr, flush=True)
        finally:
            for peer in peers.values():
                peer.stop()
            server.kill()
            server.wait()
    return raw


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.relay.modes")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repetitions", type=int, default=5)
    out = Path(os.environ.get("VITRAIL_OUT", "out"))
    parser.add_argument("--out", type=Path, default=out / "bench")
    options = parser.parse_args()
    raw = run(quick=options.quick, repetitions=options.repetitions)
    options.out.mkdir(parents=True, exist_ok=True)
    now = dt.datetime.now(dt.UTC)
    path = options.out / f"modes-{now:%Y-%m-%d-%H%M%S}.json"
    path.write_text(json.dumps({"raw": raw, "goal": GOAL}, indent=1))
    print(table(raw))
    print(f"raw values: {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
