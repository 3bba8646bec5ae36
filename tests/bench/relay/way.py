"""``python -m tests.bench.relay.way``: from the application's VM to the viewer.

The whole way, beside socat in both hops and beside no relay at all, with real
machines: over hybrid vsock (host and viewer on this machine, as with
Firecracker), and over AF_VSOCK between three machines (the lab's sibling mode,
single writes of 3,584 bytes for everybody).  Machines are emulated where there is
no KVM, so the ratios are what counts.  ``audio = "raw"`` is the stream: nothing
on its way reads it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import trio

from broker.launch.spawn import PIPE, spawn
from broker.link.keys import Peer
from broker.link.terms import Role
from tests.kit.threevm import HOST, VIEWER, Guest, lab
from tests.kit.two import two
from tests.kit.vmbrokers import CTL, pin, set_up, start, until_there
from tests.kit.world import record

HERE = Path(__file__).parent
CLIENT = (HERE / "way_client.py").read_text()
SINK = (HERE / "way_sink.py").read_text()
MEASURES = {
    "up MB/s": ("up", 0),
    "down MB/s": ("down", 0),
    "ping p50 us": ("ping", 0),
    "ping p99 us": ("ping", 1),
    "setup conn/s": ("setup", 0),
}
PEERS = ("vitrail", "socat", "no relay")
RAW = record("persistent", display="none", top='audio = "raw"\n')
FOREIGN = 'class = "persistent"\naudio = "raw"\n[label]\ncolour = "green"\n'
PIECES = 3584
SOCAT_PORT, DIRECT_PORT, AUDIO_PORT = 7100, 7102, 6502
APP = 20

Values = dict[str, dict[str, list[float]]]
Client = Callable[[str, int, str, int], Awaitable[list[float]]]
"""(peer's CID, its port, measure, amount) -> numbers, from the machine."""


class Amounts:
    """How much of each in a repetition."""

    def __init__(self, *, quick: bool, hybrid: bool) -> None:
        self.bulk = (4 if quick else 16) << (20 if hybrid else 18)
        self.pings = 60 if quick else 300
        self.setups = 10 if quick else 40

    def of(self, measure: str) -> int:
        return {"ping": self.pings, "setup": self.setups}.get(measure, self.bulk)


async def measure(
    client: Client, cid: int, amounts: Amounts, repetitions: int
) -> Values:
    """All peers in turn, within each repetition."""
    ports = {"vitrail": AUDIO_PORT, "socat": SOCAT_PORT, "no relay": DIRECT_PORT}
    cids = {"no relay": VIEWER if cid == HOST else cid}
    raw: Values = {peer: {name: [] for name in MEASURES} for peer in PEERS}
    for number in range(repetitions):
        turn = number % len(PEERS)
        for kind in ("up", "down", "ping", "setup"):
            for peer in PEERS[turn:] + PEERS[:turn]:
                found = await client(
                    str(cids.get(peer, cid)), ports[peer], kind, amounts.of(kind)
                )
                for name, (of, place) in MEASURES.items():
                    if of == kind:
                        raw[peer][name].append(found[place])
        print(f"repetition {number + 1}", file=sys.stderr, flush=True)
    return raw


# -- hybrid vsock: host and viewer on this machine ---------------------------------


@asynccontextmanager
async def running(*words: str) -> AsyncIterator[None]:
    child = spawn(list(words), stdout=PIPE)
    try:
        yield
    finally:
        child.kill()
        with trio.CancelScope(shield=True):
            await child.wait()
        assert child.popen.stdout is not None
        child.popen.stdout.close()


async def there(path: Path) -> None:
    with trio.fail_after(20):
        while not path.exists():
            await trio.sleep(0.02)


async def hybrid(*, quick: bool, repetitions: int) -> Values:
    async with two({"app": RAW}) as t:
        code, _ = await t.viewer.output("app", "true")
        assert code == 0
        sound = t.viewer.paths.runtime.parent / "pulse/native"
        vsock = t.host.paths.sandbox("app") / "vsock/vm.vsock"
        second = t.host.base / "hop"
        fork = "mode=600,fork"
        socat = ("socat", f"UNIX-LISTEN:{vsock}_{SOCAT_PORT},{fork}")
        places = (f"unix:{sound}", f"unix:{vsock}_{DIRECT_PORT}")
        async with (
            running(sys.executable, "-c", SINK, str(1 << 16), *places),
            running(*socat, f"UNIX-CONNECT:{second}"),
            running("socat", f"UNIX-LISTEN:{second},{fork}", f"UNIX-CONNECT:{sound}"),
        ):
            for path in (sound, second, Path(f"{vsock}_{SOCAT_PORT}")):
                await there(path)

            async def client(cid: str, port: int, kind: str, much: int) -> list[float]:
                words = (cid, str(port), kind, str(much), "65536")
                code, said = await t.viewer.output(
                    "app", "python3", "-c", CLIENT, *words
                )
                assert code == 0, said.decode()
                return [float(word) for word in said.split()]

            amounts = Amounts(quick=quick, hybrid=True)
            return await measure(client, 2, amounts, repetitions)


# -- AF_VSOCK: three machines ---------------------------------------------------------


async def vsock(*, quick: bool, repetitions: int) -> Values:
    async with lab() as made:
        host, viewer, app = (
            Guest("host", HOST),
            Guest("viewer", VIEWER),
            Guest("app", APP),
        )
        await made.connect(host, viewer, app, group="g1")
        async with trio.open_nursery() as nursery:
            for guest in made.guests:
                nursery.start_soon(made.boot, guest)
        await _brokers(host, viewer)
        sound = "/run/user/vit/pulse/native"
        sink = f"{PIECES} unix:{sound} vsock:{DIRECT_PORT}"
        await _background(viewer, f"python3 -c {shlex.quote(SINK)} {sink}")
        await until_there(viewer, f"test -S {sound}")
        few = f"socat -b {PIECES}"
        listen = f"VSOCK-LISTEN:{SOCAT_PORT},fork"
        await _background(viewer, f"{few} {listen} UNIX-CONNECT:{sound}")
        there = f"VSOCK-CONNECT:{VIEWER}:{SOCAT_PORT}"
        await _background(host, f"{few} {listen} {there}")
        await app.write("/tmp/client.py", CLIENT)

        async def client(cid: str, port: int, kind: str, much: int) -> list[float]:
            words = f"{cid} {port} {kind} {much} {PIECES}"
            said = await app.run(f"python3 /tmp/client.py {words}", deadline=300)
            return [float(word) for word in said.split()]

        amounts = Amounts(quick=quick, hybrid=False)
        return await measure(client, HOST, amounts, repetitions)


async def _background(guest: Guest, command: str) -> None:
    await guest.run(f"setsid {command} >/tmp/out 2>&1 &")


async def _brokers(host: Guest, viewer: Guest) -> None:
    peer = f'[launch]\nkind = "external"\n[peer]\ncid = {APP}\n'
    pieces = f"pieces = {PIECES}\n"
    at_host = await set_up(
        host, f'connect = "vsock:{VIEWER}:6499"\n{pieces}', FOREIGN + peer
    )
    at_viewer = await set_up(
        viewer, f'listen = "vsock:any:6499"\npeer_cid = {HOST}\n{pieces}', FOREIGN
    )
    await pin(host, Peer("screen", Role.VIEWER, at_viewer))
    await pin(viewer, Peer("desk", Role.HOST, at_host))
    await start(viewer, "viewer")
    await start(host, "host")
    await _background(host, f"{CTL} lease acquire app --cid {APP}")
    await until_there(host, f"{CTL} status --json | grep -q '\"leases\": *1'")


# -- the whole --------------------------------------------------------------------------

WAYS = {"hybrid vsock": hybrid, "AF_VSOCK": vsock}


def table(way: str, raw: Values) -> str:
    """Markdown: medians, and our ratio to socat within each repetition."""
    lines = [
        f"| {way} | " + " | ".join(PEERS) + " | vitrail / socat |",
        "| --- |" + " ---: |" * (len(PEERS) + 1),
    ]
    for name in MEASURES:
        cells = [f"{median(raw[peer][name]):.4g}" for peer in PEERS]
        pairs = zip(raw["vitrail"][name], raw["socat"][name], strict=True)
        cells.append(f"{median(a / b for a, b in pairs):.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


async def _all(options: argparse.Namespace) -> dict[str, Values]:
    found = {}
    for name, way in WAYS.items():
        if options.only in {"", name}:
            print(f"{name}:", file=sys.stderr, flush=True)
            found[name] = await way(
                quick=options.quick, repetitions=options.repetitions
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.relay.way")
    parser.add_argument("--quick", action="store_true", help="less in a repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", choices=WAYS, default="")
    out = Path(os.environ.get("VITRAIL_OUT", "out"))
    parser.add_argument("--out", type=Path, default=out / "bench")
    options = parser.parse_args()
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
    }
    path.write_text(json.dumps({"about": about, "raw": found}, indent=1))
    for way, raw in found.items():
        print(f"\n{table(way, raw)}")
    print(f"\nraw values: {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
