"""Podman 5 in a Debian 13 machine: limits that hold, systemd's groups, units, Quadlet.

The machine has what the development machine may lack: control groups of version 2 that
a systemd divides.  A person with lingering has it, in no session.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
import trio

from tests.kit.vm.brokers import PATIENCE, SWAY, SWAY_CONFIG, screenshot, until_there
from tests.kit.vm.debian_guest import PERSON, UID, debian_guest

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400), pytest.mark.alone]

HOME = f"/home/{PERSON}"
RECORDS = f"{HOME}/.config/vitrail/sandboxes.d"
MEMORY, PIDS = 128, 40
SHARED = ("/usr", "/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts")
BOUND = f"bind_read_only = {json.dumps(SHARED)}\n"
RECORD = f"""\
class = "disposable"
display = "allow"
[launch]
kind = "podman"
rootfs = "{HOME}/root"
{BOUND}memory = "{MEMORY}M"
pids = {PIDS}
"""
HOOKED = """\
class = "disposable"
display = "allow"
[label]
colour = "{colour}"
[launch]
kind = "podman"
required = true
"""
ORANGE, PURPLE = (0xE6, 0x9F, 0x00), (0xCC, 0x79, 0xA7)
# Again, where an emulated processor has not decided about its connection in time.
FOOT = "until foot sleep 1000; do :; done"
QUADLET = f"""\
[Container]
ContainerName=quad
Rootfs={HOME}/root:O
Annotation=io.vitrail.sandbox=quadlet
Network=none
{"".join(f"Volume={path}:{path}:ro{chr(10)}" for path in SHARED)}Exec=sh -c "{FOOT}"
"""
# Says each MiB that it has, and takes more than it may.
HOG = """
kept = []
while True:
    kept.append(b"x" * (1 << 20))
    print(len(kept), flush=True)
"""
# As many as it may have, then how many; then it tries on until it is ended.
BOMB = """
import os, time
children = 0
while True:
    try:
        if os.fork() == 0:
            while True:
                try:
                    os.fork()
                except OSError:
                    pass
        children += 1
    except OSError as error:
        print(children, type(error).__name__, flush=True)
        break
while True:
    time.sleep(1000)
"""
PROGRAMS = {
    "brokerctl": "broker.cli.app",
    "vitrail-local": "broker.programs.local",
}


def in_session(command: str) -> str:
    """A command as a unit of the person's systemd runs it."""
    words = ("systemd-run", "--user", "--quiet", "--wait", "--pipe", "--collect")
    return shlex.join([*words, "sh", "-c", command])


async def install_programs(guest):
    """Programs and units, as a package has them."""
    for name, module in PROGRAMS.items():
        text = f"#!/usr/bin/python3\nimport sys\nfrom {module} import main\nsys.exit(main())\n"
        await guest.write(f"/usr/local/bin/{name}", text, user="root")
    await guest.run(
        "chmod 755 /usr/local/bin/*; cp /srv/broker/data/systemd/user/* /etc/systemd/user/",
        user="root",
    )
    # Else each start of a program compiles them; an emulated processor is slow.
    await guest.run(
        "python3 -m compileall -q -j 2 /srv/broker /srv/policy /srv/shims",
        user="root",
        deadline=PATIENCE * 3,
    )


async def install(guest):
    """All that a package and a person have, and an almost empty root."""
    await install_programs(guest)
    records = {
        "limited": RECORD,
        "work": HOOKED.format(colour="orange"),
        "quadlet": HOOKED.format(colour="purple"),
    }
    for name, text in records.items():
        await guest.write(f"{RECORDS}/{name}.toml", text)
    for name, text in {"hog": HOG, "bomb": BOMB}.items():
        await guest.write(f"{HOME}/root/{name}.py", text)
    await guest.run(
        f"cd {HOME}/root && mkdir -p usr etc proc sys dev tmp run var home && "
        "for name in bin sbin lib lib64; do ln -s usr/$name $name; done; "
        "systemctl --user daemon-reload && "
        "systemctl --user enable --now vitrail-local.socket"
    )


async def leases(guest, record, kind="lease.begin"):
    """The beginnings, or the ends, of a record's leases until now."""
    code, said = await guest.try_run("brokerctl audit --json --lines 1000")
    if code != 0:
        assert "there is no audit log yet" in said or "no events" in said, said
        return []
    found = [json.loads(line) for line in said.splitlines()]
    of_it = {record, f"{record}-"}
    return [
        event
        for event in found
        if event["kind"] == kind and event["sandbox"].rstrip("0123456789") in of_it
    ]


async def leased(guest, record, command, user=PERSON):
    """The lease.begin that a command brings about."""
    before = len(await leases(guest, record))
    await guest.run(command, user=user)
    with trio.fail_after(PATIENCE):
        while len(found := await leases(guest, record)) == before:
            await trio.sleep(0.5)
    return found[-1]


async def all_ended(guest, record):
    """Wait until each lease of a record has ended."""
    with trio.fail_after(PATIENCE):
        while {event["lease"] for event in await leases(guest, record)} != {
            event["lease"] for event in await leases(guest, record, "lease.end")
        }:
            await trio.sleep(0.5)


async def group_of(guest, pid):
    """The control group of Podman's scope, with its limits."""
    line = await guest.run(f"cat /proc/{pid}/cgroup", user="root")
    path = line.strip().removeprefix("0::")
    parts = path.split("/")
    scope = next(n for n, part in enumerate(parts) if part.startswith("libpod-"))
    return "/sys/fs/cgroup" + "/".join(parts[: scope + 1])


async def value(guest, group, name):
    return (await guest.run(f"cat {group}/{name}", user="root")).strip()


async def nothing_left(guest):
    """No container, unit, control group, lease or directory of any run."""
    checks = {
        "podman ps -aq": "",
        "systemctl --user list-units --all --no-legend 'libpod*'": "",
        "find /sys/fs/cgroup -name 'libpod*'": "",
        f"ls /run/user/{UID}/vitrail/launch": "",
        f"ls /run/user/{UID}/vitrail/oci | grep cid- || true": "",
    }
    for command, expected in checks.items():
        with trio.move_on_after(60):
            while (found := (await guest.try_run(command))[1].strip()) != expected:
                await trio.sleep(1)
        assert found == expected, (command, found)
    assert await guest.run("podman ps -aq", user="root") == ""


async def memory_is_limited(guest):
    code, said = await guest.try_run(
        in_session("exec brokerctl run --quiet limited -- python3 /hog.py")
    )
    assert code == 137, said
    reached = max(int(line) for line in said.splitlines() if line.isdigit())
    print(
        f"the program had {reached} of {MEMORY} MiB when the kernel ended it",
        flush=True,
    )
    assert MEMORY / 2 < reached < MEMORY
    assert "memory and processes are not limited" not in said
    log = await guest.run(
        "journalctl -k --no-pager | grep -i 'memory cgroup out of'", user="root"
    )
    assert "python3" in log


async def processes_are_limited(guest):
    unit = ("systemd-run", "--user", "--unit=bomb", "--collect", "--quiet")
    words = ("brokerctl", "run", "--quiet", "limited", "--", "python3", "/bomb.py")
    begin = await leased(guest, "limited", shlex.join([*unit, *words]))
    group = await group_of(guest, begin["pid"])
    assert await value(guest, group, "pids.max") == str(PIDS)
    assert await value(guest, group, "memory.max") == str(MEMORY << 20)
    said = await until_there(
        guest, "journalctl --user -u bomb --no-pager -o cat | grep BlockingIOError"
    )
    print(f"children before the refusal: {said.strip()}", flush=True)
    assert int(said.split()[0]) < PIDS
    now = [int(await value(guest, group, "pids.current")) for _ in range(5)]
    print(
        f"processes of the bomb: {now}; {await value(guest, group, 'pids.events')}",
        flush=True,
    )
    assert max(now) <= PIDS
    # Others continue, and it can be ended.
    assert (await guest.run("brokerctl status --json")).strip()
    sandbox = begin["sandbox"]
    await guest.run(f"brokerctl stop {sandbox}")
    await until_there(guest, "! systemctl --user is-active --quiet bomb")


def hooked(record, name, *words):
    mounts = [word for path in SHARED for word in ("--volume", f"{path}:{path}:ro")]
    return shlex.join([
        *("podman", "run", "--rm", f"--name={name}", "--network=none", *mounts),
        *("--annotation", f"io.vitrail.sandbox={record}"),
        *("--rootfs", f"{HOME}/root:O", *words),
    ])  # fmt: skip


async def start_sway(guest):
    await guest.write(f"{HOME}/sway.conf", SWAY_CONFIG)
    settings = " ".join(f"--setenv={key}={text}" for key, text in SWAY.items())
    await guest.run(
        f"systemd-run --user --unit=sway --quiet {settings} "
        f"--setenv=SWAYSOCK={HOME}/sway.sock sway -c {HOME}/sway.conf"
    )
    await until_there(guest, f"test -S /run/user/{UID}/wayland-1")
    await guest.run("systemctl --user set-environment WAYLAND_DISPLAY=wayland-1")


async def framed(guest, title, colour):
    """A window of this title in a frame of this colour; the picture is kept."""
    tree = f"swaymsg -s {HOME}/sway.sock -t get_tree"
    await until_there(guest, f"{tree} | grep -F '{title}'")
    with trio.fail_after(PATIENCE):
        while True:
            picture = await screenshot(guest)
            if colour in {found for _, found in picture.getcolors(1 << 20)}:
                break
            await trio.sleep(0.5)
    folder = Path(os.environ.get("VITRAIL_OUT") or ".") / "launchers"
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"systemd-{title.strip('[')}.png")


async def unframed(guest, title):
    tree = f"swaymsg -s {HOME}/sway.sock -t get_tree"
    await until_there(guest, f"! {tree} | grep -F '{title}'")


async def by_the_hook(guest):
    """'podman run' with systemd as its manager of groups: leased, framed, cut."""
    # An emulated processor starts no broker within the hook's patience.
    await guest.run("systemctl --user start vitrail-local")
    await guest.run("brokerctl launcher install podman")
    manager = await guest.run("podman info --format '{{.Host.CgroupManager}}'")
    assert manager.strip() == "systemd"
    foot = hooked("work", "mine", "sh", "-c", FOOT)
    unit = "systemd-run --user --unit=mine --collect --quiet"
    begin = await leased(guest, "work", f"{unit} {foot}")
    assert "/libpod-" in await group_of(guest, begin["pid"])
    await framed(guest, "[work", ORANGE)
    await guest.run("podman kill mine")
    await unframed(guest, "[work")
    await until_there(guest, "! systemctl --user is-active --quiet mine")
    await all_ended(guest, "work")


async def by_the_template_unit(guest):
    text = RECORD + 'command = ["sleep", "1000"]\n'
    await guest.write(f"{RECORDS}/limited.toml", text)
    unit = "vitrail-run@limited"
    begin = await leased(guest, "limited", f"systemctl --user start {unit}")
    group = await group_of(guest, begin["pid"])
    assert await value(guest, group, "pids.max") == str(PIDS)
    await guest.run(f"systemctl --user stop {unit}")
    said = await guest.run(f"systemctl --user show -p ActiveState -p Result {unit}")
    assert set(said.split()) == {"Result=success", "ActiveState=inactive"}
    await all_ended(guest, "limited")


async def by_quadlet(guest):
    """A unit of Quadlet's, whose service is the parent of the container's group."""
    await guest.run("brokerctl launcher install podman")
    await guest.write(f"{HOME}/.config/containers/systemd/quad.container", QUADLET)
    await guest.run("systemctl --user daemon-reload")
    begin = await leased(guest, "quadlet", "systemctl --user start quad")
    seen = await guest.run("podman exec quad ls /run/vitrail")
    assert "wayland-0" in seen.split()
    assert "/quad.service/" in await group_of(guest, begin["pid"])
    await framed(guest, "[quadlet", PURPLE)
    await guest.run("systemctl --user stop quad")
    await unframed(guest, "[quadlet")
    await all_ended(guest, "quadlet")


async def by_roots_podman(guest):
    """Root's container in machine.slice, as the person's sandbox."""
    await guest.run(f"brokerctl launcher install podman --uid {UID}", user="root")
    command = hooked("work", "roots", "sh", "-c", FOOT)
    unit = "systemd-run --unit=roots --collect --quiet"
    begin = await leased(guest, "work", f"{unit} {command}", user="root")
    assert "/machine.slice/" in await group_of(guest, begin["pid"])
    await framed(guest, "[work", ORANGE)
    await guest.run("podman kill roots", user="root")
    await unframed(guest, "[work")
    await all_ended(guest, "work")


STAGES = (
    memory_is_limited,
    processes_are_limited,
    by_the_hook,
    by_the_template_unit,
    by_quadlet,
    by_roots_podman,
    nothing_left,
)


async def test_containers_of_a_person_under_systemd():
    async with debian_guest() as guest:
        await install(guest)
        await start_sway(guest)
        try:
            for stage in STAGES:
                print(stage.__name__, flush=True)
                await stage(guest)
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(60):
                for words in ("journalctl -b --no-pager | tail -80", "podman ps -a"):
                    print((await guest.try_run(words, user="root"))[1])
            raise
