"""``python -m tests.bench.pulse``: the sound filter, socat, and neither.

Beside them ``copy`` and ``asyncio``, loops in Python that look at nothing, under
trio and under asyncio: what of the filter's figures is the interpreter's and the
event loop's.

Four measurements, each with all peers in turn within a repetition:

* one-way time of a 4 KiB write, from the client's send to the server's read;
* processor time of the process between, with 1, 10 and 50 streams of
  48 kHz stereo (pacat, 20 ms) on a real PulseAudio, and its underruns;
* how often each write wakes the processes between, as the kernel counts it;
* memory for each connection, and the time from a revoke's order to its answer.

A table is printed only if every peer took part.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from broker.core.process_status import descendants
from tests.kit.listening import takes_connections
from tests.kit.result_file import result_file
from tests.kit.sound.hostile import Hostile

PEERS = ("direct", "socat", "copy", "asyncio", "filter")
MODULES = {"copy": "copy", "asyncio": "copy_asyncio"}
PACES = {"21.3 ms": 4096 / 192000, "back to back": 0.0}
STREAMS = (1, 10, 50)
PER_SANDBOX = 16
_TICK = os.sysconf("SC_CLK_TCK")
_WHOLE_PROCESS = 2
"""With a pid makes its clock's number, as clock_getcpuclockid(3) does."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _environment(base: Path) -> dict[str, str]:
    (base / "run").mkdir(mode=0o700, exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(base),
        "XDG_RUNTIME_DIR": str(base / "run"),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "LANG": "C.UTF-8",
    }


@contextmanager
def running(argv: list[str], base: Path, socket: Path | None = None, **options):
    """A program, until the block ends; waits for its socket."""
    child = subprocess.Popen(argv, env=_environment(base), **options)
    try:
        end = time.monotonic() + 30
        while socket is not None and not takes_connections(socket):
            assert child.poll() is None, argv
            assert time.monotonic() < end, argv
            time.sleep(0.02)
        yield child
    finally:
        child.terminate()
        child.wait()


def _filter(sandbox: str, path: Path, server: Path) -> list[str]:
    """The command of our filter, before a server."""
    return [
        *(sys.executable, "-m", "tests.kit.sound.filter_process", "--sandbox", sandbox),
        *("--listen", str(path), "--server", str(server)),
    ]


@contextmanager
def between(peer: str, base: Path, server: Path, number: int = 0):
    """The processes between: a path to connect to, and the pids to account."""
    path = base / f"{peer}-{number}-{time.monotonic_ns()}"
    if peer == "direct":
        yield server, None
        return
    if peer == "socat":
        argv = [
            "socat",
            f"UNIX-LISTEN:{path},fork,backlog=64",
            f"UNIX-CONNECT:{server}",
        ]
    elif peer in MODULES:
        module = f"tests.bench.pulse.{MODULES[peer]}"
        argv = [sys.executable, "-m", module, str(path), str(server)]
    else:
        argv = _filter(f"bench{number}", path, server)
    quiet = subprocess.DEVNULL
    with running(argv, base, path, stdout=quiet, stderr=quiet) as child:
        yield path, child.pid


def _pids(root: int) -> list[int]:
    return [root, *descendants(root)]


def processor_seconds(root: int) -> float:
    """Of a process and its children, those that have ended included.

    By each process's own clock, to the microsecond: the ticks of ``stat`` are
    10 ms, as much as one stream takes in a second.
    """
    total = 0.0
    for pid in _pids(root):
        try:
            total += time.clock_gettime((~pid << 3) | _WHOLE_PROCESS)
        except OSError:
            continue  # it has ended meanwhile
    words = Path(f"/proc/{root}/stat").read_text().rpartition(") ")[2].split()
    return total + sum(int(word) for word in words[13:15]) / _TICK


def resident(root: int) -> int:
    """Memory in bytes of a process and its children."""
    total = 0
    for pid in _pids(root):
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        except OSError:
            continue
    return total


# -- latency -------------------------------------------------------------------------


def one_way(peer: str, pace: float, count: int, base: Path) -> list[float]:
    """Microseconds of each write, the first tenth left out."""
    server = base / f"sink-{time.monotonic_ns()}"
    argv = [sys.executable, "-m", "tests.bench.pulse.sink", str(server)]
    with running(argv, base, server, stdout=subprocess.PIPE) as sink:  # noqa: SIM117
        with between(peer, base, server) as (path, _):
            client = Hostile(path)
            channel = client.play()
            rest, due = bytes(4096 - 8), time.monotonic()
            for _ in range(count):
                due += pace
                if pace:
                    time.sleep(max(0.0, due - time.monotonic()))
                client.frame(channel, struct.pack("d", time.monotonic()) + rest)
            client.ask(20) if peer != "direct" else None
            client.close()
            assert sink.stdout is not None
            times: list[float] = json.loads(sink.stdout.readline())
    return times[len(times) // 10 :]


def wakeups(peer: str, count: int, base: Path) -> float:
    """How often a write wakes the processes between: a figure that no load changes."""
    server = base / f"sink-{time.monotonic_ns()}"
    argv = [sys.executable, "-m", "tests.bench.pulse.sink", str(server)]
    with running(argv, base, server, stdout=subprocess.DEVNULL):  # noqa: SIM117
        with between(peer, base, server) as (path, pid):
            assert pid is not None
            client = Hostile(path)
            channel = client.play()
            time.sleep(0.5)
            before = _slept(pid)
            for _ in range(count):
                client.frame(channel, bytes(4096))
                time.sleep(PACES["21.3 ms"])
            woken = _slept(pid) - before
            client.close()
    return woken / count


def _slept(root: int) -> int:
    """How often a process and its children have given up a processor to wait."""
    paths = [
        path
        for pid in _pids(root)
        for path in Path(f"/proc/{pid}/task").glob("*/status")
    ]
    word = "voluntary_ctxt_switches:"
    return sum(
        int(line.split()[1])
        for path in paths
        for line in path.read_text().splitlines()
        if line.startswith(word)
    )


# -- processor -------------------------------------------------------------------------


def streams(peer: str, number: int, seconds: float, base: Path) -> dict[str, float]:
    """Percent of a core for the process between, and the clients' underruns."""
    place = base / f"server-{time.monotonic_ns()}"
    (place / "run").mkdir(parents=True, mode=0o700)
    server = place / "run/pulse/native"
    argv = [
        "pulseaudio",
        "-n",
        "--daemonize=no",
        "--use-pid-file=no",
        "--exit-idle-time=-1",
    ]
    # Who only relays does not say whose bytes they are, and the kernel adds it
    # only for a server that was quick: one in thirty was "access denied".
    argv += ["--disable-shm=yes", "-L", "module-native-protocol-unix auth-anonymous=1"]
    argv += ["-L", "module-null-sink sink_name=viewer rate=48000"]
    quiet = subprocess.DEVNULL
    with ExitStack() as stack:
        stack.enter_context(running(argv, place, server, stdout=quiet, stderr=quiet))
        paths, roots = [], []
        for sandbox in range(-(-number // PER_SANDBOX)):
            path, pid = stack.enter_context(between(peer, base, server, sandbox))
            paths.append(path)
            roots += [] if pid is None else [pid]
        logs, clients = [], []
        for client in range(number):
            log = base / f"pacat-{client}"
            logs.append(log)
            words = ["pacat", "-v", "--latency-msec=20", "--rate=48000", "--channels=2"]
            words += ["-s", str(paths[client // PER_SANDBOX]), "/dev/zero"]
            file = stack.enter_context(log.open("wb"))
            playing = running(words, base, stdout=quiet, stderr=file)
            clients.append(stack.enter_context(playing))
            # PulseAudio listens with a backlog of five, and libpulse does not try again:
            # "Connection refused", where fifty clients come at once.
            _wait_logged(log, clients[-1], b"Connection established.")
        for log, child in zip(logs, clients, strict=True):
            _wait_logged(log, child, b"Latency: ")
        time.sleep(2)
        before, began = sum(map(processor_seconds, roots)), time.monotonic()
        time.sleep(seconds)
        used = sum(map(processor_seconds, roots)) - before
        percent = 100 * used / (time.monotonic() - began)
        assert all(child.poll() is None for child in clients), "a client has ended"
        assert percent > 0 or not roots, f"{peer} took no time: nothing went through it"
        underruns = sum(
            log.read_text(errors="replace").count("underrun") for log in logs
        )
    return {"percent": percent, "underruns": underruns}


def _wait_logged(log: Path, child: subprocess.Popen, word: bytes) -> None:
    """Until a client says that it is connected, or that the server plays what it sends."""
    end = time.monotonic() + 60
    while word not in (said := log.read_bytes()):
        assert child.poll() is None, said
        assert time.monotonic() < end, said
        time.sleep(0.02)


# -- memory and revoke --------------------------------------------------------------------


def memory(peer: str, base: Path) -> float:
    """KiB for each of 16 connections with a stream."""
    server = base / f"sink-{time.monotonic_ns()}"
    argv = [sys.executable, "-m", "tests.bench.pulse.sink", str(server)]
    with running(argv, base, server, stdout=subprocess.DEVNULL):  # noqa: SIM117
        with between(peer, base, server) as (path, pid):
            warm = Hostile(path)
            warm.play()
            warm.close()
            time.sleep(0.2)
            assert pid is not None
            before = resident(pid)
            clients = [Hostile(path) for _ in range(15)]
            for client in clients:
                channel = client.play()
                client.frame(channel, bytes(4096))
                client.ask(20) if peer == "filter" else None
            time.sleep(0.2)
            grown = resident(pid) - before
            for client in clients:
                client.close()
    return grown / 1024 / len(clients)


def revoke(base: Path, count: int) -> list[float]:
    """Milliseconds from the order to the answer, with a recording that runs."""
    from broker.core.paths import find_paths
    from broker.ipc.control.api import SoundRequest
    from broker.ipc.control.blocking import open_blocking
    from broker.ipc.control.methods import SOUND
    from tests.kit.sound.hostile import RECORD

    place = base / "m"  # short: a socket's path has 107 bytes
    (place / "run").mkdir(parents=True, mode=0o700)
    server, path = place / "run/pulse/native", place / "filtered"
    argv = [
        "pulseaudio",
        "-n",
        "--daemonize=no",
        "--use-pid-file=no",
        "--exit-idle-time=-1",
    ]
    argv += [
        "-L",
        "module-native-protocol-unix",
        "-L",
        "module-sine-source source_name=mic",
    ]
    argv += ["-L", "module-null-sink"]
    quiet = subprocess.DEVNULL
    words = _filter("mic", path, server)
    words += ["--microphone", "ask", "--source", "mic", "--control"]
    times = []
    with running(argv, place, server, stdout=quiet, stderr=quiet):  # noqa: SIM117
        with running(words, place, path, stdout=quiet, stderr=quiet):
            client = Hostile(path)
            assert client.ask(5, RECORD)[0] == 2
            allow = SoundRequest(sandbox="mic", microphone=True)
            deny = SoundRequest(sandbox="mic", microphone=False)
            with open_blocking(find_paths(_environment(place))) as mixer:
                for _ in range(count):
                    mixer.call(SOUND, allow)
                    while not any(client.read()[1]):
                        pass  # until the source is heard
                    reader = _Reading(client)
                    began = time.monotonic()
                    mixer.call(SOUND, deny)
                    times.append((time.monotonic() - began) * 1000)
                    reader.stop()
            client.close()
    return times


class _Reading:
    """Reads everything, beside."""

    def __init__(self, client: Hostile) -> None:
        import threading

        self._client, self._go = client, True
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while self._go:
            self._client.read()

    def stop(self) -> None:
        self._go = False
        self._thread.join()


# -- report ------------------------------------------------------------------------------


def _quantile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def show(raw: dict) -> None:
    """The tables."""
    print("\nOne-way time of a 4 KiB write, microseconds: median / p95 / p99\n")
    print("| pace | " + " | ".join(PEERS) + " |")
    for pace in PACES:
        cells = []
        for peer in PEERS:
            values = [t for run in raw["latency"][pace][peer] for t in run]
            cells.append(
                " / ".join(f"{_quantile(values, q):.0f}" for q in (0.5, 0.95, 0.99))
            )
        print(f"| {pace} | " + " | ".join(cells) + " |")
    woken = {p: statistics.median(v) for p, v in raw["wakeups"].items()}
    print("\nWake-ups of the processes between, for each write: ", end="")
    print(", ".join(f"{peer} {number:.2f}" for peer, number in woken.items()))
    print("\nPercent of a core between, for each stream; underruns\n")
    print("| streams | " + " | ".join(PEERS) + " |")
    for number, by_peer in raw["streams"].items():
        cells = []
        for peer in PEERS:
            runs = by_peer[peer]
            each = statistics.median(run["percent"] for run in runs) / int(number)
            cells.append(f"{each:.2f} % ({sum(run['underruns'] for run in runs):.0f})")
        print(f"| {number} | " + " | ".join(cells) + " |")
    print("\nMemory for each connection, KiB: ", end="")
    print(
        ", ".join(f"{p} {statistics.median(v):.0f}" for p, v in raw["memory"].items())
    )
    times = raw["revoke"]
    print(
        f"Revoke, order to answer, ms: median {statistics.median(times):.1f}, worst {max(times):.1f}"
    )


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pulse")
    parser.add_argument("--quick", action="store_true", help="shorter, once")
    parser.add_argument("--repetitions", type=int)
    out = Path(os.environ.get("VITRAIL_OUT", "out"))
    # argparse gives a default to 'type' only where it is a string.
    file = str(out / "bench-pulse.json")
    parser.add_argument("--json", type=result_file, default=file)
    options = parser.parse_args()
    absent = [p for p in ("socat", "pulseaudio", "pacat") if shutil.which(p) is None]
    if absent:
        print(f"missing: {', '.join(absent)}; no comparison without them")
        return 1
    repetitions = options.repetitions or (1 if options.quick else 5)
    count, seconds = (150, 4.0) if options.quick else (400, 8.0)
    raw: dict = {
        "latency": {pace: {peer: [] for peer in PEERS} for pace in PACES},
        "streams": {str(n): {peer: [] for peer in PEERS} for n in STREAMS},
        "wakeups": {peer: [] for peer in PEERS if peer != "direct"},
        "memory": {peer: [] for peer in PEERS if peer != "direct"},
    }
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as name:
        base = Path(name)
        for _ in range(repetitions):
            for pace, gap in PACES.items():
                for peer in PEERS:
                    times = one_way(peer, gap, count if gap else count * 10, base)
                    raw["latency"][pace][peer].append(times)
            for peer in raw["wakeups"]:
                raw["wakeups"][peer].append(wakeups(peer, count, base))
            for number in STREAMS:
                for peer in PEERS:
                    result = streams(peer, number, seconds, base)
                    raw["streams"][str(number)][peer].append(result)
            for peer in raw["memory"]:
                raw["memory"][peer].append(memory(peer, base))
        raw["revoke"] = revoke(base, 10 if options.quick else 40)
    raw["about"] = {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "processors": os.cpu_count(),
        "load": os.getloadavg(),
    }
    options.json.write_text(json.dumps(raw))
    show(raw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
