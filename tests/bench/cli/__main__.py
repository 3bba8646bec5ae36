"""Start-up times of verbs beside a running broker, and of programs like them.

    python -m tests.bench.cli [RUNS]

The broker is scripted, so that only brokerctl is measured.  Verbs that act are asked
for their help: what they load before they act is what a person waits for.  Prints, for
each command in seconds, the first run (cold: what no other command has loaded before
comes from the disk), the least and the median of RUNS, and the least processor time.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import sys
import time

import trio

from broker.cli.verbs import VERBS as APP_VERBS
from tests.kit.brokerctl import home, paths_of
from tests.kit.control import ScriptedBroker, serving

VERBS = (
    ["--help"],
    ["help", "run"],
    ["status"],
    ["status", "--json"],
    ["list"],
    ["windows"],
    ["labels", "--json"],
    ["audit"],
    ["policy", "check"],
)
HELPS = tuple(
    [verb, "--help"] for verb in APP_VERBS if verb not in {words[0] for words in VERBS}
)
OTHERS = (["journalctl", "--help"], ["podman", "--help"], ["systemctl", "--version"])


def measured(
    argv: list[str], env: dict[str, str], runs: int
) -> tuple[float, float, float, float]:
    """Return a command's first, least and median time, and its least processor time.

    In seconds; the last one says more on a machine that does other things too.
    """
    times, used = [], []
    for _ in range(runs):
        began, before = time.perf_counter(), _children()
        subprocess.run(argv, env=env, capture_output=True, check=False)
        times.append(time.perf_counter() - began)
        used.append(_children() - before)
    return times[0], min(times), statistics.median(times), min(used)


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def main(runs: int) -> None:
    """Print a table."""
    print(f"{'':<28}", *(f"{head:>7}" for head in ("first", "least", "median", "cpu")))
    with home() as env:
        async with serving(paths_of(env).control, ScriptedBroker()):
            for words in (*VERBS, *HELPS):
                argv = [sys.executable, "-m", "broker.cli.app", *words]
                await report(f"brokerctl {' '.join(words)}", argv, env, runs)
            for words in OTHERS:
                if shutil.which(words[0]):
                    await report(" ".join(words), list(words), env, runs)


async def report(name: str, argv: list[str], env: dict[str, str], runs: int) -> None:
    """Measure in a thread, so that the scripted broker can answer."""
    found = await trio.to_thread.run_sync(measured, argv, env, runs)
    print(f"{name:<28}", *(f"{value:7.3f}" for value in found), flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 10)
