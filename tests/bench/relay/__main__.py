"""``python -m tests.bench.relay``: the relay beside those people use today.

All relays are measured in turn within each repetition.  A table is printed
only if every one of them took part.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.relay import report
from tests.bench.relay.measure import FULL, QUICK, Load, measurements
from tests.bench.relay.peers import Peer, all_running, await_socket, compile_c, missing
from tests.bench.relay.quiet import Watch


def main() -> int:
    options = _options()
    absent = missing()
    if absent:
        print(f"missing: {', '.join(absent)}; no comparison without them")
        return 1
    raw: report.Raw
    if options.read:
        raw = json.loads(options.read.read_text())["raw"]
    else:
        raw, about = _run(options)
        _write(raw, about, options)
    print("\nMedians (ratio to socat/ratio to the C splice loop, of the same run)\n")
    print(report.main_table(raw))
    print()
    print(report.goal_table(raw))
    if options.plot:
        report.plot(raw, options.plot)
        print(f"\nplot: {options.plot}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.relay")
    parser.add_argument("--quick", action="store_true", help="shorter repetitions")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--patience",
        type=float,
        default=600,
        metavar="SECONDS",
        help="time to spend on measuring again what others disturbed",
    )
    parser.add_argument("--plot", type=Path, help="write a plot (SVG) here")
    out = Path(os.environ.get("VITRAIL_OUT", "out"))
    parser.add_argument("--out", type=Path, default=out / "bench")
    parser.add_argument("--read", type=Path, help="show an earlier run's JSON")
    options = parser.parse_args()
    if options.repetitions < 5 and not options.quick:
        parser.error("fewer than 5 repetitions only with --quick")
    return options


def _run(options: argparse.Namespace) -> tuple[report.Raw, dict[str, object]]:
    raw: report.Raw = {}
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name:
        folder = Path(name)
        server_path = folder / "server.sock"
        compile_c("limit", folder)
        program = compile_c("load", folder)
        server = subprocess.Popen([program, "serve", server_path])
        try:
            await_socket(server_path)
            load = Load(program, server.pid, QUICK if options.quick else FULL)
            with all_running(folder, server_path) as peers:
                this = Peer("load", server_path, server)
                watch = Watch(peers, this, options.patience)
                for number in range(options.repetitions):
                    _repeat(number, load, peers, raw, watch)
        finally:
            server.kill()
            server.wait()
    print(
        f"{watch.disturbed} of {watch.measured} measurements were disturbed by others",
        file=sys.stderr,
    )
    return raw, {"measured": watch.measured, "disturbed": watch.disturbed}


def _repeat(
    number: int, load: Load, peers: dict[str, Peer], raw: report.Raw, watch: Watch
) -> None:
    began = time.monotonic()
    names = [name for name in peers if name != "vitrail, busy"]
    for measure in measurements(load):
        # Each repetition begins with another relay, so that none always
        # comes after the same neighbour.
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            _keep(raw, name, watch.undisturbed(measure, peers[name]), peers)
    busy = watch.undisturbed(load.ping_tail, peers["vitrail, busy"])
    _keep(raw, "vitrail, busy", busy, peers)
    took = time.monotonic() - began
    print(f"repetition {number + 1}: {took:.0f} s", file=sys.stderr, flush=True)


def _keep(
    raw: report.Raw, name: str, values: dict[str, float], peers: dict[str, Peer]
) -> None:
    process = peers[name].process
    if process is not None and process.poll() is not None:
        raise SystemExit(f"{name} ended with code {process.returncode}; no table")
    for measure, value in values.items():
        raw.setdefault(name, {}).setdefault(measure, []).append(value)


def _write(
    raw: report.Raw, run: dict[str, object], options: argparse.Namespace
) -> None:
    now = dt.datetime.now(dt.UTC)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"relay-{now:%Y-%m-%d-%H%M%S}.json"
    goals = []
    for goal in report.GOALS:
        value, met = report.judge(raw, goal)
        goals.append({**vars(goal), "value": value, "met": met})
    about = {
        "date": now.isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "repetitions": options.repetitions,
        "quick": options.quick,
        **run,
    }
    path.write_text(json.dumps({"about": about, "raw": raw, "goals": goals}, indent=1))
    print(f"raw values: {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
