"""A call that a rule allows, beside ssh with a multiplexed connection and beside socat.

    python -m tests.bench.calls [--rounds N] [--mib N] [--json]

Two guests as processes of this machine (the agent, the shims, a real broker, its workers
and its pump; no machine between them): what a call costs beside the machines.  In turns,
so that a busy moment falls on all: a call of ``true`` by each way, ``--rounds`` (30)
times, and ``--mib`` MiB (512) into a program that discards them.  ``relay`` is a port by
rule (``vitrail-connect``), which has the same broker and pump and no frames.  Prints
medians in milliseconds and MiB/s, and the processor's time of a call by process, which
depends less on what else runs; ``--json`` prints all values.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import resource
import shlex
import statistics
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.plain_guests import plain
from tests.kit.ssh import agent, host, made_key, running
from tests.kit.world import world

RULES = """\
vitrail.Call *     work vault allow
vitrail.Tcp  *     work vault allow
"""
SERVICES = {"nothing": "true", "sink": "cat >/dev/null"}
# In the guest: the time of one program after the other, or of bytes into each.
TIMED = """
import json, subprocess, sys, time
ways, rounds, data = json.loads(sys.argv[1])
found = {name: [] for name in ways}
for _ in range(rounds):
    for name, words in ways.items():
        began = time.monotonic()
        child = subprocess.Popen(["sh", "-c", words], stdin=subprocess.PIPE)
        for _ in range(data):
            child.stdin.write(bytes(1 << 20))
        child.stdin.close()
        if child.wait():
            sys.exit(f"{name} failed")
        found[name].append(time.monotonic() - began)
print(json.dumps(found))
"""
CHILDREN = resource.RUSAGE_CHILDREN
SINK = """
import socket
server = socket.create_server(("127.0.0.1", {port}))
while True:
    sock, _ = server.accept()
    while sock.recv(1 << 18):
        pass
    sock.close()
"""


@asynccontextmanager
async def ways(port):
    """Yield a guest, and the command of each way by its name."""
    async with world({}, image=False, rules=RULES) as w:
        key = made_key(w.base / "keys/one", "one")
        there = host(w.base / "sshd", key)
        async with (
            plain(w, "work", "vault") as guests,
            agent(w.base / "a", key) as sock,
        ):
            own = guests["vault"].home / ".config/vitrail-services"
            own.mkdir(parents=True)
            for name, text in SERVICES.items():
                (own / name).write_text(f"#!/bin/sh\n{text}\n")
                (own / name).chmod(0o755)
            known = w.base / "known"
            known.write_text(f"alias {there.key}\n")
            control = w.base / "control"
            ssh = there.words("ssh", known, "alias", f"ControlPath={control}")
            master = f"SSH_AUTH_SOCK={sock} exec {ssh} -MN {getpass.getuser()}@there"
            plug = w.base / "plug"
            listen = ["socat", f"UNIX-LISTEN:{plug},fork", "SYSTEM:true"]
            drain = ["socat", f"UNIX-LISTEN:{plug}.sink,fork", "SYSTEM:cat >/dev/null"]
            local = port + 1
            connect = f"vitrail-connect -t vault {port} {local}"
            tools = guests["work"].folder / "runtime/bin"
            relay = ["sh", "-c", f"PATH={tools}:$PATH exec {connect}"]
            sink = [sys.executable, "-c", SINK.format(port=port)]
            async with (
                running(["sh", "-c", master]),
                running(listen),
                running(drain),
                running(sink),
                running(relay, env={**guests["work"].env}),
            ):
                for path in (control, plug, Path(f"{plug}.sink")):
                    await eventually(lambda path=path: takes_connections(path))
                to = f"{ssh} {getpass.getuser()}@there"
                yield (
                    w,
                    guests["work"],
                    {
                        "vitrail-call": "vitrail-call -t vault nothing",
                        "ssh, multiplexed": f"{to} true",
                        "socat": f"socat - UNIX:{plug}",
                    },
                    {
                        "vitrail-call": "vitrail-call -t vault sink",
                        "relay (vitrail.Tcp)": f"socat -u - TCP:127.0.0.1:{local}",
                        "ssh, multiplexed": f"{to} 'cat >/dev/null'",
                        "socat": f"socat -u - UNIX:{plug}.sink",
                    },
                )


async def measured(guest, commands, rounds, mib):
    """Return seconds by way."""
    ask = shlex.quote(json.dumps([commands, rounds, mib]))
    program = guest.folder / "timed.py"
    program.write_text(TIMED)
    code, said = await guest.script(f"python3 {program} {ask}", deadline=600)
    if code:
        sys.exit(said)
    return json.loads(said.splitlines()[-1])


async def processor_time(w, guest):
    """Return the seconds that each process has had, those of its children included."""
    named = {
        one.pid: f"{one.role} {one.sandbox or ''}" for one in await processes_of(w)
    }
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            if (
                b"guest.py" in words
                and str(guest.folder.parent).encode()
                in (entry / "environ").read_bytes()
            ):
                named[int(entry.name)] = "agents, and services"
    found = {}
    for pid, name in named.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        ticks = sum(map(int, fields[11:15]))
        found[name] = found.get(name, 0) + ticks / os.sysconf("SC_CLK_TCK")
    return found


async def processes_of(w):
    return (await w.status()).processes


async def shares(w, guest, calls, rounds):
    """Return the processor's seconds of one call by process."""
    before, own = await processor_time(w, guest), resource.getrusage(CHILDREN)
    await measured(guest, {"vitrail-call": calls["vitrail-call"]}, rounds, 0)
    after, late = await processor_time(w, guest), resource.getrusage(CHILDREN)
    found = {name: (t - before.get(name, 0)) / rounds for name, t in after.items()}
    spent = late.ru_utime + late.ru_stime - own.ru_utime - own.ru_stime
    return {**found, "vitrail-call": spent / rounds}


async def main(words):
    async with ways(words.port) as (w, guest, calls, bulk):
        await measured(guest, calls, 2, 0)
        took = await measured(guest, calls, words.rounds, 0)
        spent = await shares(w, guest, calls, words.rounds)
        moved = await measured(guest, bulk, 3, words.mib)
    if words.json:
        made = {"seconds": took, "processor_seconds": spent}
        print(json.dumps({**made, "bulk_seconds": moved, "mib": words.mib}))
        return
    print(f"{'a call of true':24}{'median ms':>12}{'worst ms':>12}")
    for name, values in took.items():
        middle, worst = statistics.median(values) * 1000, max(values) * 1000
        print(f"{name:24}{middle:12.1f}{worst:12.1f}")
    print(f"\n{'the processor, by call':24}{'ms':>12}")
    for name, value in sorted(spent.items(), key=lambda one: -one[1]):
        print(f"{name:24}{value * 1000:12.1f}")
    print(f"\n{f'{words.mib} MiB':24}{'MiB/s':>12}")
    for name, values in moved.items():
        print(f"{name:24}{words.mib / statistics.median(values):12.0f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--port", type=int, default=24713)
    parser.add_argument("--json", action="store_true")
    trio.run(main, parser.parse_args())
