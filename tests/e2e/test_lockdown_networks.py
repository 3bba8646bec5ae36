"""A lockdown with networks, seen from another machine: nothing arrives until its end.

The broker and its boxes are in namespaces of their own, *another machine* at a cable.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from broker.cli.run.connect import broker_runs
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool
from tests.e2e.test_microvm_network import OTHER, THIS
from tests.kit.brokerctl import brokerctl, running
from tests.kit.cables import need_boxes_at_cables, need_cables, played
from tests.kit.eventually import NeverError, eventually
from tests.kit.vm.machines import require_vm
from tests.kit.wayland.compositor import short_directory
from tests.kit.world import World, record, world

MODULE = "tests.e2e.test_lockdown_networks"
PORT = 7003
# Sends its name by TCP and UDP again and again, and counts the attempts in a file; a
# server, too, which counts the names that it gets.
PROGRAM = f"""
import collections, json, os, socket, sys, threading, time
out, name, *addresses = sys.argv[1:]
counts = collections.Counter()
def count(key):
    counts[key] += 1
    with open(f"{{out}}.new", "w") as file:
        json.dump(counts, file)
    os.rename(f"{{out}}.new", out)
lock = threading.Lock()
def note(key):
    with lock:
        count(key)
def read(conn):
    with conn:
        note("tcp " + conn.recv(100).decode())
def tcp(server):
    while True:
        # One of a program that gave up in the lockdown may say nothing for ever.
        threading.Thread(target=read, args=server.accept()[:1], daemon=True).start()
def udp(sock):
    while True:
        note("udp " + sock.recv(100).decode())
server = socket.create_server(("0.0.0.0", {PORT}))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("0.0.0.0", {PORT}))
threading.Thread(target=tcp, args=(server,), daemon=True).start()
threading.Thread(target=udp, args=(datagrams,), daemon=True).start()
addresses = [socket.gethostbyname(address) for address in addresses]
note("attempts")
while True:
    for address in addresses:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto(name.encode(), (address, {PORT}))
            except OSError:
                pass
        with socket.socket() as sock:
            sock.settimeout(1)
            try:
                sock.connect((address, {PORT}))
                sock.sendall(name.encode())
                sock.recv(1)
            except OSError:
                pass
    note("attempts")
    time.sleep(0.1)
"""
RECORD = """\
class = "persistent"
display = "allow"
[launch]
kind = "bwrap"
network = "{network}"
bind_read_only = ["{base}/program.py"]
bind_read_write = ["{base}/out"]
{more}
"""
RULES = f"vitrail.Network +{OTHER} ruled @net allow\n"


@pytest.fixture(scope="module")
def results():
    need_boxes_at_cables("bwrap", "passt", "ip", "nsenter")
    return played(MODULE, "boxes", deadline=250)


@pytest.mark.parametrize("name", ["user", "ruled", "vpn"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_another_machine_hears_nothing_in_a_lockdown(results, name, protocol):
    earlier, cut, later, lifted = (
        results["other"][time].get(f"{protocol} {name}", 0)
        for time in ("before", "cut", "later", "lifted")
    )
    assert earlier > 0
    assert later == cut
    assert lifted > later


@pytest.mark.parametrize(("server", "client"), [("db", "app"), ("vpn", "behind")])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_sandboxes_do_not_reach_each_other_in_a_lockdown(
    results, server, client, protocol
):
    earlier, cut, later, lifted = (
        results[server][time].get(f"{protocol} {client}", 0)
        for time in ("before", "cut", "later", "lifted")
    )
    assert earlier > 0
    assert later == cut
    assert lifted > later


@pytest.mark.parametrize("name", ["user", "ruled", "vpn", "db", "app", "behind"])
def test_programs_run_on_meanwhile(results, name):
    """Else nothing would have been tried."""
    of = results[name]
    assert of["later"]["attempts"] >= of["cut"]["attempts"] + 3


def test_the_first_line_says_that_networks_are_denied(results):
    start = "a lockdown is in force: networks, microphones"
    assert results["first line"].startswith(start)


def test_a_lockdown_cuts_a_box_that_outlived_its_broker(results):
    """Its network was started by the broker that was killed."""
    counts = (results["other"][time]["udp user"] for time in ("cut 2", "later 2"))
    cut, later = counts
    assert later == cut
    assert results["other"]["lifted 2"]["udp user"] > later
    assert "no broker is running" in results["without a broker"]


@pytest.mark.long
@pytest.mark.parametrize(("server", "name"), [("other", "vm"), ("db", "member")])
def test_a_lockdown_cuts_micro_vms(machines, server, name):
    for key in (f"tcp {name}", f"udp {name}"):
        count = {time: machines[server][time].get(key, 0) for time in machines[server]}
        assert count["before"] > 0, key
        assert count["later"] == count["cut"], key
        assert count["lifted"] > count["later"], key


@pytest.fixture(scope="module")
def machines():
    need_cables("passt", "ip")
    require_vm()
    return played(MODULE, "machines", deadline=290)


# -- in the namespaces -----------------------------------------------------------------


async def ip(*words):
    await run_tool(["ip", *words])


@asynccontextmanager
async def other_machine(out, program):
    argv = ["unshare", "--net", "sh", "-c", 'read _; exec python3 "$@"', "sh"]
    import subprocess

    child = subprocess.Popen([*argv, program, out, "other"], stdin=subprocess.PIPE)
    try:
        host_netns = Path("/proc/self/ns/net").stat().st_ino
        await eventually(
            lambda: Path(f"/proc/{child.pid}/ns/net").stat().st_ino != host_netns
        )
        await ip("link", "set", "lo", "up")
        await ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        await ip("link", "set", "v1", "netns", str(child.pid))
        await ip("address", "add", f"{THIS}/24", "dev", "v0")
        await ip("link", "set", "v0", "up")
        there = ["nsenter", "-t", str(child.pid), "-n", "ip"]
        await run_tool([*there, "address", "add", f"{OTHER}/24", "dev", "v1"])
        await run_tool([*there, "link", "set", "v1", "up"])
        await ip("route", "add", "default", "via", OTHER)
        child.stdin.write(b"\n")
        child.stdin.close()
        await eventually(Path(out).exists)
        yield
    finally:
        child.kill()
        child.wait()


async def be_this_machine(kind):
    with short_directory() as directory:
        program, out = directory / "program.py", directory / "heard"
        program.write_text(PROGRAM)
        async with other_machine(str(out), str(program)):
            # An ordinary user again, as brokers are of one.
            argv = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
            command = [*argv, *our_program(MODULE, kind, str(out))]
            return (await trio.run_process(command, capture_stdout=True)).stdout


@dataclass
class Senders:
    """Sandboxes that send their names, and what their servers have counted."""

    w: World
    stack: AsyncExitStack
    files: dict[str, Path]
    expected: dict[str, list[str]]
    """The names that each server gets."""
    results: dict = field(default_factory=dict)

    async def box(self, name, network, *addresses, more=""):
        """Run the program in a box or container, until the stack ends."""
        text = RECORD.format(network=network, base=self.w.base, more=more)
        self.w.write_record(name, text)
        out = self.files[name] = self.w.base / "out" / name
        program = (str(self.w.base / "program.py"), str(out), name, *addresses)
        argv = ("run", "-q", "--no-window", name, "--", "/usr/bin/python3", *program)
        child = await self.stack.enter_async_context(running(*argv, env=self.w.environ))
        await eventually(
            lambda: out.exists() or child.returncode is not None, deadline=60
        )
        assert out.exists(), child.returncode

    def counts(self, name):
        return json.loads(self.files[name].read_text())

    def take(self, time):
        """Keep the present counts under this name."""
        for name in self.files:
            self.results.setdefault(name, {})[time] = self.counts(name)

    def missing(self, since, only=None):
        """What of each sandbox has not arrived since then: server, protocol and name."""
        then = {
            server: self.results.get(server, {}).get(since, {})
            for server in self.expected
        }
        return [
            (server, key)
            for server, names in self.expected.items()
            for key in (f"{p} {name}" for p in ("tcp", "udp") for name in names)
            if only is None or key.endswith(f" {only}")
            if self.counts(server).get(key, 0) <= then[server].get(key, 0)
        ]

    async def arrived(self, since, only=None):
        """Wait until more of each sandbox has arrived than then."""
        try:
            await eventually(lambda: not self.missing(since, only), deadline=90)
        except NeverError as error:
            error.add_note(f"{self.missing(since, only)} {self.results}")
            raise

    async def attempted(self, since, only=None):
        """Wait until each box has tried four times more."""
        await eventually(
            lambda: all(
                self.counts(name)["attempts"]
                >= self.results[name][since]["attempts"] + 4
                for name in self.files
                if only in {None, name}
            ),
            deadline=120,
        )

    async def locked_down(self):
        """A lockdown from its begin to its end."""
        await self.arrived("begin")
        self.take("before")
        answer = await brokerctl("lockdown", "--networks", env=self.w.environ)
        self.results["first line"] = answer.err.splitlines()[0]
        self.take("cut")
        await self.attempted("cut")
        self.take("later")
        await self.w.said("lockdown", "--lift")
        await self.arrived("later")
        self.take("lifted")

    async def killed_broker(self):
        """A lockdown in which a broker begins whose predecessor was killed."""
        w = self.w
        os.kill(await w.broker_pid(), signal.SIGKILL)
        await eventually(lambda: not broker_runs(w.paths))
        answer = await brokerctl("lockdown", "--networks", env=w.environ)
        self.results["without a broker"] = answer.err
        await w.start()
        await w.said("lockdown", "--show")
        self.take("cut 2")
        await self.attempted("cut 2", "user")
        self.take("later 2")
        await w.said("lockdown", "--lift")
        await self.arrived("later 2", "user")
        self.take("lifted 2")


@asynccontextmanager
async def senders(counts_path, expected, **options):
    context = world(rules=RULES, records={}, **options)
    async with context as w, AsyncExitStack() as stack:
        (w.base / "out").mkdir()
        (w.base / "program.py").write_text(PROGRAM)
        yield Senders(w, stack, {"other": Path(counts_path)}, expected)


async def be_boxes(counts_path):
    expected = {"other": ["user", "ruled", "vpn"], "db": ["app"], "vpn": ["behind"]}
    async with senders(counts_path, expected, image=False) as it:
        await it.box("user", "user", OTHER)
        await it.box("ruled", "rules", OTHER)
        await it.box("vpn", "user", OTHER, more="provides_network = true")
        await it.box("behind", "through:vpn", "10.0.4.1")
        await it.box("db", "lan:lab")
        await it.box("app", "lan:lab", "db")
        await it.locked_down()
        await it.killed_broker()
        return it.results


async def be_machines(counts_path):
    expected = {"other": ["vm"], "db": ["member"]}
    async with senders(counts_path, expected) as it:
        await it.box("db", "lan:lab")
        for name, network, address in (
            ("vm", "user", OTHER),
            ("member", "lan:lab", "db"),
        ):
            it.w.write_record(name, record("persistent", network=network))
            program = ("python3", "-c", PROGRAM, "/tmp/out", name, address)
            await it.w.run(name, *program, window=False)
        await it.locked_down()
        return it.results


if __name__ == "__main__":
    kind, *words = sys.argv[1:]
    if words:
        be = {"boxes": be_boxes, "machines": be_machines}
        print(json.dumps(trio.run(be[kind], *words)))
    else:
        print(trio.run(be_this_machine, kind).decode().splitlines()[-1])
    sys.exit(0)
