"""What a copy between two sandboxes costs, beside tar over socat and beside cp.

    python -m tests.bench.transfer [--json FILE] [--quick]

One large file and 10,000 small ones, in turns within each repetition:

* *vitrail*: the guest's real programs at both ends, each connected to a worker of
  its own (a process here), a pipe between the workers; every check on;
* *tar*: ``tar | socat`` to ``socat | tar`` over UNIX sockets, one relay between
  them as a broker would be, no checks;
* *cp*: ``cp -r``, with no boundary at all.

No machine is in it: what vsock and emulation cost is in the relay's benchmark, and
comes to the first two alike.  Times are from the start of the sender to the end of
the receiver, processes included.  CPU is user and system time of all processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from broker.core.limits import transfer as limits
from broker.core.transfer.quota import Quota
from broker.ipc import transfer as messages
from broker.jail.worker.transfer import WorkerTransfers
from tests.kit.result_file import result_file
from tests.kit.shims import files_program

REPEATS = 5
PEERS = ("vitrail", "tar", "cp")
MANY = 1 << 40


def worker(door: str, pipe: int, sends: bool) -> int:
    """Fork a worker that serves one connection at ``door``; returns its pid."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(door)
    listener.listen()
    pid = os.fork()
    if pid:
        listener.close()
        return pid
    code = 1
    try:
        trio.run(_serve, listener, pipe, sends)
        code = 0
    finally:
        os._exit(code)


async def _serve(listener: socket.socket, pipe: int, sends: bool) -> None:
    say, said = trio.open_memory_channel[messages.FromWorker](1000)
    transfers = WorkerTransfers(say.send, lambda: None)
    conn, _ = listener.accept()
    quota = Quota(MANY, MANY, 1 << 20)
    if sends:
        order = messages.TransferSend(1, quota)
    else:
        order = messages.TransferDeliver(1, "work", False, quota)
    async with trio.open_nursery() as nursery:
        start = messages.TransferStream(1)
        transfers.obey(start, (conn.detach(),), nursery)
        async for message in said:
            if isinstance(message, messages.TransferAsked):
                transfers.obey(order, (pipe,), nursery)
            elif isinstance(message, messages.TransferPassed):
                finish = messages.TransferFinish(1, message.reason)
                transfers.obey(finish, (), nursery)
            elif isinstance(message, messages.TransferClosed):
                return


def tool(door: str, home: Path, *words: str) -> subprocess.Popen[bytes]:
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "VITRAIL_COPY": f"unix:{door}",
    }
    argv = [sys.executable, "-I", files_program(), *words]
    return subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL)


def vitrail(source: Path, target: Path, base: Path) -> None:
    read, write = os.pipe()
    out, back = f"{base}/out", f"{base}/in"
    pids = [worker(out, write, sends=True)]
    os.close(write)
    pids.append(worker(back, read, sends=False))
    os.close(read)
    receiver = tool(back, target, "receive", "0" * 32)
    sender = tool(out, target, "vitrail-copy", str(source), "other")
    codes = [sender.wait(), receiver.wait()]
    codes += [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    if any(codes):
        raise SystemExit(f"vitrail failed: {codes}")


def tar(source: Path, target: Path, base: Path) -> None:
    relay = f"socat -b {limits.TRANSFER_READ_BYTES} -u"
    commands = [
        f"{relay} UNIX-LISTEN:{base}/b STDOUT | tar -C {target} -xf -",
        f"{relay} UNIX-LISTEN:{base}/a UNIX-CONNECT:{base}/b",
        f"tar -C {source.parent} -cf - {source.name} | {relay} STDIN UNIX-CONNECT:{base}/a",
    ]
    running = []
    for command, door in zip(commands, ("b", "a", ""), strict=True):
        running.append(subprocess.Popen(["sh", "-c", command]))
        while door and not (base / door).exists():
            time.sleep(0.001)
    if any(process.wait() for process in reversed(running)):
        raise SystemExit("tar failed")


def cp(source: Path, target: Path, base: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)


def measure(peer: str, source: Path) -> tuple[float, float]:
    """Seconds, and CPU seconds of all processes, of one copy."""
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as name:
        base = Path(name)
        target = base / "target"
        target.mkdir()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        {"vitrail": vitrail, "tar": tar, "cp": cp}[peer](source, target, base)
        took = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        kept = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
        wanted = sum(p.stat().st_size for p in source.rglob("*") if p.is_file())
        if kept != wanted:
            raise SystemExit(f"{peer} kept {kept} bytes of {wanted}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took, cpu


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=result_file)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if shutil.which("socat") is None:
        raise SystemExit("socat is not installed; without every peer there is no table")
    large, small = (64 << 20, 500) if options.quick else (1 << 30, 10_000)
    repeats = 2 if options.quick else REPEATS
    raw: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/var/tmp") as name:
        loads = {
            "one large file": Path(name) / "large",
            "small files": Path(name) / "small",
        }
        for folder in loads.values():
            folder.mkdir()
        with (loads["one large file"] / "x").open("wb") as file:
            for _ in range(large >> 20):
                file.write(os.urandom(1 << 20))
        for number in range(small):
            (loads["small files"] / str(number)).write_bytes(os.urandom(4000))
        for _ in range(repeats):
            for load, source in loads.items():
                for peer in PEERS:
                    raw.setdefault(load, {}).setdefault(peer, []).append(
                        measure(peer, source)
                    )
    print(f"{'':16}{'peer':10}{'seconds':>10}{'of tar':>8}{'CPU s':>8}")
    for load, peers in raw.items():
        base = statistics.median(took for took, _ in peers["tar"])
        for peer, runs in peers.items():
            took = statistics.median(one for one, _ in runs)
            cpu = statistics.median(one for _, one in runs)
            print(f"{load:16}{peer:10}{took:10.2f}{took / base:8.2f}{cpu:8.2f}")
    if options.json:
        options.json.write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    main()
