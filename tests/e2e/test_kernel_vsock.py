"""The kernel's own AF_VSOCK, in a Debian 13 machine: real guests by their CIDs, and floods.

This machine's kernel may have neither vhost_vsock nor vsock_loopback; Debian's has both.
In there QEMU runs once more, under the KVM that the emulated processor offers, and takes
its vsock from the kernel, as on a person's machine.

Ten thousand connections that say nothing come from a program of another user, by the
loopback CID, and from a leased CID, by ``vhostguest``.  They are judged from outside: by
what the guest beside them gets, and by the broker's descriptors, memory and processes.
"""

from __future__ import annotations

import json
import shlex
from contextlib import asynccontextmanager
from datetime import datetime

import pytest
import trio

from broker.cli.images.building.build import build_image
from broker.core import limits
from broker.core.paths import find_paths
from broker.host.images.store import ImageSpec
from tests.e2e.test_podman_systemd import (
    RECORDS,
    all_ended,
    framed,
    install_programs,
    leased,
    leases,
    start_sway,
    unframed,
)
from tests.kit.vm.brokers import PATIENCE, until_there
from tests.kit.vm.debian_guest import PERSON, UID, debian_guest
from tests.kit.vm.vhost import vhostguest

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400), pytest.mark.alone]

EXTRA = "/srv/extra"
HALF_CID, LAB_CID = 4711, 77
DISPLAY_PORT = 6501
HALF_OPEN = 10_000
MEMORY_GROWTH = 32 << 10
"""KiB.  Ten thousand half-open connections, each of which left a KiB, were 10 MiB."""
GREEN, BLUE = (0x00, 0x9E, 0x73), (0x00, 0x72, 0xB2)
RECORD = """\
class = "{sandbox_class}"
display = "allow"
[label]
colour = "{colour}"
[launch]
{launch}
"""
MICROVM = RECORD.format(
    sandbox_class="disposable",
    colour="green",
    launch='kind = "microvm"\nfork = "no"',
)
EXTERNAL = RECORD.format(
    sandbox_class="persistent", colour="{colour}", launch='kind = "external"\n[peer]'
)
# FILE PORT COUNT PROCESSES: as fast as the processes can, from the loopback CID.
STRANGER = """
import errno, json, os, resource, select, socket, sys, time
port, share = int(sys.argv[1]), int(sys.argv[2]) // int(sys.argv[3])
def flood():
    resource.setrlimit(resource.RLIMIT_NOFILE, (share + 100,) * 2)
    poll, open_ones, began = select.epoll(), {}, time.monotonic()
    met = {"asked": 0, "accepted": 0, "reset": 0, "too late": 0, "ended": 0}
    def look(patience):
        for fd, _ in poll.poll(patience, 1000):
            sock, accepted = open_ones[fd]
            error = 0 if accepted else sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not accepted and not error:
                met["accepted"] += 1
                open_ones[fd] = sock, True
                poll.modify(fd, select.EPOLLIN | select.EPOLLRDHUP)
                continue
            late = error == errno.ETIMEDOUT
            met["ended" if accepted else "too late" if late else "reset"] += 1
            del open_ones[fd]
            sock.close()
    for number in range(share):
        sock = socket.socket(socket.AF_VSOCK)
        sock.setblocking(False)
        met["asked"] += 1
        if sock.connect_ex((1, port)) not in (0, errno.EINPROGRESS):
            met["reset"] += 1
            continue
        open_ones[sock.fileno()] = sock, False
        poll.register(sock.fileno(), select.EPOLLOUT)
        if number % 100 == 99:
            look(0)
    met["seconds asking"] = round(time.monotonic() - began, 1)
    while open_ones:
        look(1)
    print(json.dumps(met), flush=True)
for _ in range(int(sys.argv[3])):
    if os.fork() == 0:
        flood()
        os._exit(0)
for _ in range(int(sys.argv[3])):
    os.wait()
print("over", flush=True)
"""
# In the honest guest: whether the kernel of the host takes its connections meanwhile.
PROBER = f"""
import collections, errno, socket, time
met = collections.Counter()
for number in range(150):
    sock = socket.socket(socket.AF_VSOCK)
    sock.settimeout(20)
    try:
        sock.connect((2, {DISPLAY_PORT}))
        met["accepted"] += 1
    except OSError as error:
        met[errno.errorcode.get(error.errno, str(error))] += 1
    sock.close()
    if number == 0:
        print("begun", flush=True)
    time.sleep(0.1)
print("probed", dict(met), flush=True)
"""
# A guest that knows no secret of a launch, which it then is not.
UNPROVED = f"""
import socket
sock = socket.socket(socket.AF_VSOCK)
sock.settimeout(60)
sock.connect((2, {DISPLAY_PORT}))
sock.sendall(bytes.fromhex("84090100") + bytes(60))
try:
    print("end" if sock.recv(1) == b"" else "bytes")
except ConnectionError:
    print("end")
"""
# IMAGE NAME CID CONSOLE: a machine as another launcher starts it.
MACHINE = """
import os, sys
from pathlib import Path
from broker.host.vmm.qemu_arguments import MACHINES, Accel, base_args, root_args
image, name, cid, console = Path(sys.argv[1]), *sys.argv[2:]
how = MACHINES[Accel.KVM]
line = ["console=ttyS0", "panic=-1", "quiet", *how.kernel_args, f"vitrail.name={name}"]
words = [
    *base_args(Path("/usr/bin/qemu-system-x86_64"), Accel.KVM, name=name),
    *("-m", "640M", "-kernel", f"{image}/kernel", "-initrd", f"{image}/initrd"),
    *("-append", " ".join(line), "-serial", f"file:{console}"),
    *root_args(image / "root", how.bus),
    *("-device", f"vhost-vsock-{how.bus},guest-cid={cid}"),
]
os.execv(words[0], words)
"""
SAMPLER = """
import os, re, sys, time
place = f"/proc/{sys.argv[1]}"
while True:
    memory = re.search(r"VmRSS:\\s*([0-9]+)", open(f"{place}/status").read())[1]
    print(len(os.listdir(f"{place}/fd")), memory, flush=True)
    time.sleep(0.5)
"""


async def install(guest):
    await guest.run(
        # As 'docs/operations.md' has it, and a person who logs in again.
        "modprobe vhost_vsock && modprobe vsock_loopback && useradd -m mallory && "
        f"usermod -aG kvm {PERSON} && systemctl restart user@{UID}",
        user="root",
    )
    await install_programs(guest)
    records = {
        "nested": MICROVM,
        "half": EXTERNAL.format(colour="orange") + f"cid = {HALF_CID}\n",
        "lab": EXTERNAL.format(colour="blue") + 'machine = "lab"\n',
    }
    for name, text in records.items():
        await guest.write(f"{RECORDS}/{name}.toml", text)
    programs = {"stranger.py": STRANGER, "machine.py": MACHINE, "sampler.py": SAMPLER}
    for name, text in programs.items():
        await guest.write(f"/tmp/{name}", text)
    await guest.run(
        "mkdir -p ~/.cache/vitrail/images && "
        f"ln -s {EXTRA}/image ~/.cache/vitrail/images/default && "
        "systemctl --user daemon-reload && "
        "systemctl --user enable --now vitrail-local.socket"
    )
    await start_sway(guest)
    await guest.run("systemctl --user start vitrail-local")


def unit(name, *words):
    return shlex.join(["systemd-run", "--user", "--quiet", f"--unit={name}", *words])


async def broker_pid(guest):
    show = "systemctl --user show --property=MainPID --value vitrail-local"
    return int(await guest.run(show))


async def census(guest):
    """The broker's descriptors, memory in KiB, and the processes of its unit."""
    pid = await broker_pid(guest)
    said = await guest.run(
        f"ls /proc/{pid}/fd | wc -l; sed -n 's/VmRSS://p' /proc/{pid}/status; "
        "wc -l </sys/fs/cgroup/$(systemctl --user show --property=ControlGroup "
        "--value vitrail-local)/cgroup.procs"
    )
    descriptors, memory, processes = said.replace("kB", "").split()
    return int(descriptors), int(memory), int(processes)


async def events(guest, kind, sandbox):
    said = await guest.run("brokerctl audit --json --lines 2000")
    found = [json.loads(line) for line in said.splitlines()]
    return [e for e in found if e["kind"] == kind and e.get("sandbox") == sandbox]


async def output(guest, sandbox, *words):
    command = shlex.join(["brokerctl", "exec", sandbox, "--", *words])
    return (await guest.run(command)).splitlines()[-1]


async def a_guest_with_a_cid_of_the_kernels(guest):
    """Leased by it, framed, its programs heard; who knows no secret gets nothing."""
    run = ("brokerctl", "run", "nested", "--", "foot", "-T", "first", "sleep", "9000")
    begin = await leased(guest, "nested", unit("nested", *run))
    sandbox = begin["sandbox"]
    await framed(guest, "first", GREEN)
    (one,) = json.loads(await guest.run("brokerctl status --json"))["sandboxes"]
    cid = one["cid"]
    words = await guest.run(f"tr '\\0' ' ' </proc/{one['pid']}/cmdline")
    assert f"guest-cid={cid},vhostfd=" in words
    assert "vhost-user" not in words
    seen = await guest.run("ss --vsock --no-header state established")
    assert f"{cid}:" in seen, "the kernel's connection is from this CID"
    for service in ("vitrail.Agent", "vitrail.Display"):
        opened = await events(guest, "stream.opened", sandbox)
        assert {e["peer"] for e in opened if e["service"] == service} == {f"cid {cid}"}
    print(f"{sandbox} with {one['accel']} has CID {cid}", flush=True)

    found = f"find /run/user/{UID}/vitrail -name launch-secret -printf '%m '"
    assert (await guest.run(found)).split() == ["600"]
    assert await output(guest, sandbox, "echo", "heard") == "heard"
    assert await output(guest, sandbox, "python3", "-c", UNPROVED) == "end"
    refused = await events(guest, "stream.refused", sandbox)
    assert any("authentication message" in e["reason"] for e in refused)
    return sandbox, cid, one["pid"]


@asynccontextmanager
async def unharmed(guest, sandbox, what):
    """The guest beside it is served, and the broker is unchanged afterwards."""
    before = await census(guest)
    pid = await broker_pid(guest)
    await guest.run(f"rm -f /tmp/{what}.*; " + unit(
        f"{what}-sampler", "sh", "-c", f"python3 /tmp/sampler.py {pid} >/tmp/{what}.samples"
    ))  # fmt: skip
    probe = shlex.join(["brokerctl", "exec", sandbox, "--", "python3", "-c", PROBER])
    await guest.run(unit(f"{what}-prober", "sh", "-c", f"{probe} >/tmp/{what}.probe"))
    await until_there(guest, f"grep begun /tmp/{what}.probe")
    yield
    # While it lasts or has just ended: a program, and a window with its stream.
    assert await output(guest, sandbox, "echo", what) == what
    window = ("brokerctl", "run", sandbox, "--", "foot", "-T", f"beside {what}", "sleep", "9000")  # fmt: skip
    await guest.run(unit(f"{what}-window", *window))
    await framed(guest, f"beside {what}", GREEN)
    await guest.run(f"systemctl --user stop {what}-window")
    await unframed(guest, f"beside {what}")
    probed = await until_there(guest, f"grep probed /tmp/{what}.probe")
    print(f"{what}: the guest beside it {probed.strip()}", flush=True)
    assert "'accepted'" in probed
    await guest.run(f"systemctl --user stop {what}-sampler")
    samples = [
        [int(number) for number in line.split()]
        for line in (await guest.run(f"cat /tmp/{what}.samples")).splitlines()
    ]
    descriptors, memory = (max(values) for values in zip(*samples, strict=True))
    print(f"{what}: before {before}, most {descriptors, memory}", flush=True)
    # What one reading of the backlog takes, at each of two doors, and its streams.
    room = 2 * limits.VSOCK_BATCH + 2 * limits.STREAMS_PER_SANDBOX
    assert descriptors < before[0] + room
    assert memory < before[1] + MEMORY_GROWTH


async def settled(guest, before, what):
    """No descriptor and no process is left."""
    after = await census(guest)
    with trio.move_on_after(PATIENCE):
        while after[0] > before[0] or after[2] > before[2]:
            await trio.sleep(1)
            after = await census(guest)
    print(f"{what}: before {before}, after {after}", flush=True)
    assert after[0] <= before[0]
    assert after[2] <= before[2]
    left = await guest.run("ss --vsock --no-header | wc -l")
    print(f"{what}: {left.strip()} vsock connections", flush=True)


async def a_flood_of_another_users(guest, sandbox):
    """CID 1 cannot be a sandbox: its connections are accepted and ended."""
    before = await census(guest)
    async with unharmed(guest, sandbox, "loopback"):
        words = f"{DISPLAY_PORT} {HALF_OPEN} 4"
        log = "/tmp/stranger.log"
        await guest.run(
            f"setsid python3 /tmp/stranger.py {words} >{log} 2>&1 &", user="mallory"
        )
        await until_there(guest, f"grep over {log}")
    met = [json.loads(n) for n in (await guest.run(f"grep -v over {log}")).splitlines()]
    total = {key: round(sum(one[key] for one in met), 1) for key in met[0]}
    print(f"loopback: {total}", flush=True)
    assert total["asked"] == HALF_OPEN
    assert total["accepted"] + total["reset"] + total["too late"] == HALF_OPEN
    assert total["ended"] == total["accepted"], "not one stays open"
    await settled(guest, before, "loopback")


async def a_flood_of_a_leased_machine(guest, sandbox, how="half", cid=HALF_CID):
    """Those that it may have are open until their deadline, the others are refused."""
    before = await census(guest)
    words = f"{EXTRA}/vhostguest -1 {cid} {DISPLAY_PORT} {'ab' * 16} {HALF_OPEN} {how}"
    log = f"/tmp/{how}.log"
    # It is leased before it speaks.
    script = (
        f"rm -f /tmp/go; until test -e /tmp/go; do sleep 0.2; done; exec {words} >{log}"
    )
    await guest.run(unit(how, "sh", "-c", script))
    show = f"systemctl --user show --property=MainPID --value {how}"
    pid = (await guest.run(show)).strip()
    await leased(
        guest,
        how,
        f"brokerctl lease acquire {how} --cid {cid} --leader {pid} --detach",
    )
    async with unharmed(guest, sandbox, how):
        await guest.run("touch /tmp/go")
        await until_there(guest, f"grep -E '^[0-9]+ {HALF_OPEN} ' {log}")
    over = f"^[0-9]+ {HALF_OPEN} ([0-9]+) [0-9]+ \\1$"
    await until_there(guest, f"grep -E '{over}' {log}")
    lines = (await guest.run(f"cat {log}")).splitlines()
    began, ended = int(lines[0].split()[0]), int(lines[-1].split()[0])
    asked, accepted, reset, closed = (int(n) for n in lines[-1].split()[1:])
    assert accepted + reset == asked == HALF_OPEN
    assert closed == accepted, "not one stays open"
    print(
        f"{how}: asked {asked}, accepted {accepted}, reset {reset}, ended {closed}, "
        f"{(ended - began) / 1000:.0f} s",
        flush=True,
    )
    await guest.run(f"systemctl --user kill --signal=KILL {how}")
    await all_ended(guest, how)
    refused = await events(guest, "stream.refused", how)
    print(f"{how}: {sorted({e['reason'] for e in refused})}", flush=True)
    await settled(guest, before, how)


async def killed(guest, sandbox, cid, pid):
    """All of its streams end, and its CID is not leased again for a minute."""
    text = EXTERNAL.format(colour="purple") + f"cid = {cid}\n"
    await guest.write(f"{RECORDS}/next.toml", text)
    # It waits for the CID until the kernel gives it, at once after the machine's end.
    words = f"{EXTRA}/vhostguest -1 {cid} {DISPLAY_PORT} {'cd' * 16} 1 half"
    await guest.run(unit("next", "sh", "-c", f"exec {words}"))
    taker = (await guest.run("systemctl --user show -P MainPID next")).strip()
    acquire = f"brokerctl lease acquire next --cid {cid} --leader {taker} --detach"
    # In one command: on a busy machine each is many seconds of the minute.
    said = await guest.run(
        f"kill -9 {pid}; until {acquire} 2>&1; do sleep 1; done", deadline=PATIENCE
    )
    print(f"the CID of the dead machine: {said.strip()}", flush=True)
    assert "belonged to another lease and is reserved for" in said
    (ended,) = await leases(guest, "nested", "lease.end")
    (begun,) = await leases(guest, "next")
    first, then = (datetime.fromisoformat(one["time"]) for one in (ended, begun))
    assert (then - first).total_seconds() >= limits.CID_QUARANTINE_SECONDS

    await unframed(guest, f"[{sandbox}]")
    await all_ended(guest, "nested")
    closed = await events(guest, "stream.closed", sandbox)
    opened = await events(guest, "stream.opened", sandbox)
    assert {e["stream"] for e in closed} == {e["stream"] for e in opened}
    await guest.run("systemctl --user kill --signal=KILL next")
    await all_ended(guest, "next")


async def by_machined(guest):
    """A machine that machined names with its CID, which another program started."""
    words = ("python3", "/tmp/machine.py", f"{EXTRA}/image", "lab", str(LAB_CID))
    await guest.run(unit("lab", "--setenv=PYTHONPATH=/srv", *words, "/tmp/lab.console"))
    await until_there(guest, "pgrep -u ada -f '^/usr/bin/qemu-system-x86_64 -name lab'")
    pid = int(await guest.run("systemctl --user show -P MainPID lab"))
    found = {"name": "lab", "class": "vm", "leader": pid, "vSockCid": LAB_CID}
    call = json.dumps({**found, "allocateUnit": False})
    machine = "io.systemd.Machine"
    # It makes its socket when it starts, which only a machine over D-Bus has it do.
    await guest.run("systemctl start systemd-machined", user="root")
    begin = await leased(
        guest,
        "lab",
        f"varlinkctl call /run/systemd/machine/{machine} {machine}.Register '{call}'",
        user="root",
    )
    assert begin["pid"] == pid
    assert begin["peer"] == f"cid {LAB_CID}"
    await guest.run(unit("window", "brokerctl", "run", "lab", "--", "foot", "-T", "of the lab", "sleep", "9000"))  # fmt: skip
    await framed(guest, "of the lab", BLUE)
    assert await output(guest, "lab", "uname", "-n") == "lab"
    await guest.run(f"kill -9 {pid}")
    await unframed(guest, "of the lab")
    await all_ended(guest, "lab")


async def test_a_debian_host_with_the_kernels_vsock(tmp_path):
    image = await build_image(find_paths(), ImageSpec(), print)
    extra = {
        "image": image.root.resolve().parent,
        "vhostguest": await vhostguest(tmp_path),
    }
    async with debian_guest(memory_mib=5120, extra=extra) as guest:
        await install(guest)
        try:
            sandbox, cid, pid = await a_guest_with_a_cid_of_the_kernels(guest)
            await a_flood_of_another_users(guest, sandbox)
            await a_flood_of_a_leased_machine(guest, sandbox)
            await killed(guest, sandbox, cid, pid)
            await by_machined(guest)
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(60):
                for words in (
                    "journalctl -b --no-pager | tail -60",
                    "tail -n +1 /tmp/*.log /tmp/*.probe | tail -60",
                ):
                    print((await guest.try_run(words, user="root"))[1])
                print((await guest.try_run("brokerctl audit --lines 40"))[1])
            raise
