"""The relays under test, each started the way a person would start it.

All of them relay from a separate UNIX socket to the load's server, all
run at the same time, and only the one being measured has anything to do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PROXYD = "/lib/systemd/systemd-socket-proxyd"
MANY = "8192"  # more connections than any part of the benchmark opens


@dataclass
class Peer:
    """A relay that runs; ``path`` is where clients connect."""

    name: str
    path: Path
    process: subprocess.Popen[bytes] | None

    def tree(self) -> list[int]:
        """The relay's processes, children included."""
        if self.process is None:
            return []
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
                todo += [int(word) for word in text.split()]
        return found

    def cpu(self) -> float:
        """CPU seconds of the relay so far, of its ended children too."""
        ticks = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                # a live child's own children are in the tree themselves
                ticks += sum(int(word) for word in stat[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Memory of the relay in bytes, shared pages by share (PSS)."""
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
        return total

    def stop(self) -> None:
        if self.process is not None:
            pids = self.tree()
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            for pid in pids:  # socat's children outlive it
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()


Starter = Callable[[Path, Path], subprocess.Popen[bytes] | None]


def compile_c(name: str, into: Path) -> Path:
    program = into / name
    subprocess.run(
        ["gcc", "-O2", "-pthread", "-o", program, HERE / f"{name}.c"], check=True
    )
    return program


def _popen(argv: list[str], **options) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, **options)


def _ours(
    listen: Path, connect: Path, *, more: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from broker.cli.app import main; main()"]
    options = ["--listen", f"unix:{listen}", "--connect", f"unix:{connect}"]
    limit = ["--max-connections", "4096", "--quiet"]
    return _popen([*command, "proxy", "relay", *options, *limit, *more])


def _in_python(listen: Path, connect: Path) -> subprocess.Popen[bytes]:
    """Ours without the part in C, as where there is no compiler."""
    os.environ["VITRAIL_RELAY_PYTHON"] = "1"
    try:
        return _ours(listen, connect)
    finally:
        del os.environ["VITRAIL_RELAY_PYTHON"]


def _busy(listen: Path, connect: Path) -> subprocess.Popen[bytes]:
    module = "tests.bench.relay.busy"
    return _popen([sys.executable, "-m", module, str(listen), str(connect)])


def _socat(*options: str) -> Starter:
    def start(listen: Path, connect: Path) -> subprocess.Popen[bytes]:
        on = f"UNIX-LISTEN:{listen},fork,backlog={MANY}"
        return _popen(["socat", *options, on, f"UNIX-CONNECT:{connect}"])

    return start


def _proxyd(listen: Path, connect: Path) -> subprocess.Popen[bytes]:
    limit = f"--connections-max={MANY}"
    activate = ["systemd-socket-activate", f"--listen={listen}"]
    return _popen([*activate, PROXYD, limit, str(connect)])


def starters(tools: Path) -> dict[str, Starter]:
    """Name to how it is started; the order is that of the tables."""

    def limit(listen: Path, connect: Path) -> subprocess.Popen[bytes]:
        return _popen([str(tools / "limit"), str(listen), str(connect)])

    return {
        "direct": lambda _listen, _connect: None,
        "C splice loop": limit,
        "vitrail": _ours,
        "vitrail in Python": _in_python,
        "socat": _socat(),
        "socat -b 262144": _socat("-b", "262144"),
        "socket-proxyd": _proxyd,
    }


def missing() -> list[str]:
    """The programs that must be installed for a comparison."""
    needed = {
        "gcc": shutil.which("gcc"),
        "socat": shutil.which("socat"),
        "systemd-socket-proxyd": os.access(PROXYD, os.X_OK),
        "systemd-socket-activate": shutil.which("systemd-socket-activate"),
        "taskset": shutil.which("taskset"),
    }
    return [name for name, there in needed.items() if not there]


def await_socket(path: Path, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                probe.send(b"c")
                return


def start(name: str, starter: Starter, folder: Path, server: Path) -> Peer:
    """Start one relay and wait until it carries something."""
    path = folder / f"{name.rsplit(maxsplit=1)[-1]}-{len(name)}.sock"
    process = starter(path, server)
    if process is None:
        return Peer(name, server, None)
    peer = Peer(name, path, process)
    try:
        await_socket(path)
    except OSError:
        peer.stop()
        raise SystemExit(f"{name} does not come up") from None
    return peer


@contextlib.contextmanager
def all_running(folder: Path, server: Path) -> Iterator[dict[str, Peer]]:
    peers: dict[str, Peer] = {}
    try:
        for name, starter in starters(folder).items():
            peers[name] = start(name, starter, folder, server)
        peers["vitrail, busy"] = start("vitrail, busy", _busy, folder, server)
        yield peers
    finally:
        for peer in peers.values():
            peer.stop()
