"""What a paste between sandboxes costs, beside one without any sandbox.

    python -m tests.bench.clipboard [--json FILE] [--quick]

1 kB, 1 MB and 50 MB of text, on a headless sway, in turns within each
repetition:

* *crossing*: copy chord in one sandbox, paste chord in another, ``wl-paste``
  there; real keys, jailed workers, the crossing, a policy that says yes at once
  (what rules and the audit log add is in other benchmarks);
* *one sandbox*: ``wl-copy`` and ``wl-paste`` inside of one, through its filter;
* *direct*: the two on the compositor itself.

Times are from the first chord (or the start of ``wl-paste``) to its end, with
the start of that process in all of them; inside of a sandbox it also opens a
window, as it gets no privileged protocol there.  Memory is the peak of both
workers' jailed halves, and of the process that holds the copy (here this
one), over what they had before, reset for each round.  A worker's content lies
in a sealed file in memory, which is counted where it is read only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

import trio

from broker.core.limits import clipboard as limits
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.messages import Outcome
from tests.kit.clipboard.stand import DEADLINE, Desk, desk
from tests.kit.result_file import result_file
from tests.kit.wayland.compositor import wait_window

SIZES = {"1 kB": 1000, "1 MB": 1_000_000, "50 MB": 50_000_000}
REPEATS = 5
MOST = limits.CLIPBOARD_BYTES_MOST
PEERS = ("crossing", "one sandbox", "direct")
KIND = "text/plain"


def yes(_source: str, _target: str, _kinds: object) -> w.PasteTerms:
    return w.PasteTerms(max_bytes=MOST)


class Peak:
    """The most memory that a process has had since this was made."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc_pid_clear_refs(5)
        self._before = self._read()

    def _read(self) -> int:
        status = Path(f"/proc/{self._pid}/status").read_text()
        (line,) = [one for one in status.splitlines() if one.startswith("VmHWM")]
        return int(line.split()[1])

    def more(self) -> int:
        """KiB beyond its memory before."""
        return self._read() - self._before


def environment(it: Desk, name: str) -> dict[str, str]:
    path = it.rooms[name].path if name else it.comp.display
    return {**it.comp.environment, "WAYLAND_DISPLAY": str(path)}


async def select(it: Desk, name: str, file: Path) -> None:
    with trio.fail_after(DEADLINE), file.open("rb") as data:
        argv = ["wl-copy", "--type", KIND]
        await trio.run_process(argv, stdin=data, env=environment(it, name))


async def take(it: Desk, name: str, size: int) -> None:
    argv = ["wl-paste", "--no-newline", "--type", KIND]
    path = it.comp.display.with_name("taken")
    with trio.fail_after(DEADLINE), path.open("wb") as into:
        await trio.run_process(argv, env=environment(it, name), stdout=into)
    if path.stat().st_size != size:
        raise SystemExit(f"{path.stat().st_size} of {size} bytes came")
    path.unlink()


async def one(it: Desk, peer: str, size: int, file: Path) -> dict[str, float]:
    """One round; seconds and KiB."""
    name = "" if peer == "direct" else "red"
    await select(it, name, file)
    if peer != "crossing":
        worker = it.rooms["red"].worker
        peak = Peak(worker.inner_pid)
        began = trio.current_time()
        await take(it, name, size)
        took = trio.current_time() - began
        return {"total": took, "source": peak.more() if name else 0}
    peaks = {n: Peak(it.rooms[n].worker.inner_pid) for n in ("red", "blue")}
    broker = Peak(os.getpid())
    await it.focus("red", "source")
    began = trio.current_time()
    record = await it.copy()
    copied = trio.current_time()
    if record.outcome is not Outcome.COPIED:
        raise SystemExit(f"not copied: {record}")
    await it.focus("blue", "target")
    focused = trio.current_time()
    record = await it.paste()
    pasted = trio.current_time()
    if record.outcome is not Outcome.PASTED:
        raise SystemExit(f"not pasted: {record}")
    await take(it, "blue", size)
    taken = trio.current_time()
    await it.feed("", w.Cleared())
    return {
        "copy": copied - began,
        "paste": pasted - focused,
        "take": taken - pasted,
        "total": (copied - began) + (taken - focused),
        "source": peaks["red"].more(),
        "target": peaks["blue"].more(),
        "broker": broker.more(),
    }


async def measure(repeats: int, sizes: dict[str, int]) -> list[dict[str, object]]:
    raw: dict[tuple[str, str], list[dict[str, float]]] = {}
    terms = w.CopyTerms(max_bytes=MOST)
    async with desk("red", "blue", policy=yes, terms=terms) as it:
        for name, title in (("red", "source"), ("blue", "target")):
            it.rooms[name].run("foot", "-T", title, "sleep", "1000")
            await wait_window(it.comp, title=title, deadline=DEADLINE)
        for label, size in sizes.items():
            file = it.comp.display.with_name("content")
            file.write_bytes(b"0123456789" * (size // 10))
            for _ in range(repeats):
                for peer in PEERS:
                    found = await one(it, peer, size, file)
                    raw.setdefault((label, peer), []).append(found)
            file.unlink()
    return [
        {"size": label, "bytes": sizes[label], "peer": peer, "rounds": rounds}
        for (label, peer), rounds in raw.items()
    ]


def middle(row: dict[str, object], what: str) -> float:
    rounds = row["rounds"]
    assert isinstance(rounds, list)
    return statistics.median(one.get(what, 0.0) for one in rounds)


def table(rows: list[dict[str, object]]) -> str:
    head = f"{'size':<7}{'way':<13}{'copy':>9}{'paste':>9}{'take':>9}{'total':>9}"
    lines = [f"{head}{'ratio':>7}{'source':>10}{'target':>10}{'broker':>10}"]
    direct = {r["size"]: middle(r, "total") for r in rows if r["peer"] == "direct"}
    for row in rows:
        cells = [
            f"{middle(row, part) * 1000:8.1f}"
            for part in ("copy", "paste", "take", "total")
        ]
        times = " ".join(cell if float(cell) else f"{'-':>8}" for cell in cells)
        ratio = middle(row, "total") / direct[row["size"]]
        memory = "".join(
            f"{middle(row, who) / 1024:9.1f} " for who in ("source", "target", "broker")
        )
        lines.append(f"{row['size']:<7}{row['peer']:<13} {times}{ratio:7.2f} {memory}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=result_file, help="write raw values there")
    parser.add_argument("--quick", action="store_true", help="two rounds, no 50 MB")
    asked = parser.parse_args()
    sizes = dict(list(SIZES.items())[:2]) if asked.quick else SIZES
    rows = trio.run(measure, 2 if asked.quick else REPEATS, sizes)
    if len(rows) != len(sizes) * len(PEERS):
        raise SystemExit("a peer is missing")
    print("milliseconds; MiB beyond what the worker had; medians")
    print(table(rows))
    if asked.json:
        asked.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


main()
