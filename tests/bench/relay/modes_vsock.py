"""``python -m tests.bench.relay.modes_vsock``: ``auto`` on AF_VSOCK, by kernel.

One machine for each kernel, the relay alone inside it (``way_relay.py``) and the kernel's loopback as the vsock: single writes of any size, which the lab's
way between machines does not carry (``way``).  The two relays of the way: the
host's has a vsock at both ends, the viewer's a vsock and a UNIX socket.  There is
no cache and no second processor in an emulated machine: look at the ratios.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import trio

from broker.launch.images import ImageSpec
from tests.bench.relay.way_places import CLIENT, KINDS, SINK
from tests.bench.relay.way_report import MEASURES, SIDES, leg_table, legs
from tests.kit.threevm import Guest, lab
from tests.kit.vmbrokers import until_there

KERNELS = {"Debian 12": None, "Debian 13": ImageSpec()}
MODES = ("auto", "splice", "copy")
SINK_PORT, FIRST_PORT = 7200, 7201
SOUND = "/run/user/vit/sink"
WRITES = 65536
PORTS = {
    (side, mode): FIRST_PORT + number
    for number, (side, mode) in enumerate((s, m) for s in SIDES for m in MODES)
}
ENDS = {"host": f"vsock:{SINK_PORT}", "viewer": f"unix:{SOUND}"}


async def measured(
    kernel: ImageSpec | None, words: str, repetitions: int
) -> dict[str, Any]:
    """Every relay in turn, within each repetition."""
    async with lab(kernel) as made:
        guest = Guest("modes", 30)
        await made.connect(guest)
        await made.boot(guest)
        await guest.write("/tmp/client.py", CLIENT)
        sink = f"{WRITES} unix:{SOUND} vsock:{SINK_PORT}"
        await guest.run(
            f"setsid python3 -c {shlex.quote(SINK)} {sink} >/tmp/sink 2>&1 &"
        )
        relay = (Path(__file__).parent / "way_relay.py").read_text()
        await guest.write("/tmp/relay.py", relay)
        specs = [f"{port}:{mode}:{ENDS[side]}" for (side, mode), port in PORTS.items()]
        await guest.run(
            f"setsid python3 /tmp/relay.py {' '.join(specs)} >/tmp/took 2>/tmp/err &"
        )
        for port in PORTS.values():  # until all of them are there
            await until_there(
                guest, f"python3 /tmp/client.py 1 {port} {WRITES} setup 1"
            )
        print("relays are up", file=sys.stderr, flush=True)
        values: dict[str, dict[str, list[float]]] = {}
        for number in range(repetitions):
            for (side, mode), port in PORTS.items():
                said = await guest.run(
                    f"python3 /tmp/client.py 1 {port} {WRITES} {words}"
                )
                kept = values.setdefault(f"{side} {mode}", {})
                for name, (of, place) in MEASURES.items():
                    line = said.splitlines()[KINDS.index(of)]
                    kept.setdefault(name, []).append(float(line.split()[place]))
            print(f"repetition {number + 1}", file=sys.stderr, flush=True)
        auto = {side: await _took(guest, side) for side in SIDES}
        release = (await guest.run("uname -r")).strip()
        return {"values": values, "auto": auto, "kernel": release}


async def _took(guest: Guest, side: str) -> str:
    """What the relay was there that had its own choice."""
    rows = [line.split() for line in (await guest.run("cat /tmp/took")).splitlines()]
    auto = str(PORTS[side, "auto"])
    return ", ".join(sorted({" / ".join(row[1:]) for row in rows if row[0] == auto}))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.relay.modes_vsock")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", choices=KERNELS, action="append")
    parser.add_argument("--read", type=Path, help="show an earlier run's JSON")
    out = Path(os.environ.get("VITRAIL_OUT", "out"))
    parser.add_argument("--out", type=Path, default=out / "bench")
    options = parser.parse_args()
    bulk, pings, setups = (2 << 20, 100, 10) if options.quick else (16 << 20, 1000, 60)
    words = f"up {bulk} down {bulk} ping {pings} setup {setups}"
    found = json.loads(options.read.read_text())["raw"] if options.read else {}
    for name, kernel in KERNELS.items():
        if not options.read and (not options.only or name in options.only):
            print(f"{name}:", file=sys.stderr, flush=True)
            found[name] = trio.run(measured, kernel, words, options.repetitions)
    if not options.read:
        now = dt.datetime.now(dt.UTC)
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"modes-vsock-{now:%Y-%m-%d-%H%M%S}.json"
        verdicts = {name: [vars(x) for x in legs(raw)] for name, raw in found.items()}
        path.write_text(json.dumps({"raw": found, "auto": verdicts}, indent=1))
        print(f"raw values: {path}", file=sys.stderr)
    for name, raw in found.items():
        title = f"{name}, {raw['kernel']}"
        print(f"\n{leg_table(title, raw)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
