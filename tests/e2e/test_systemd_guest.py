"""The units in a machine that systemd runs, as an installation has them."""

from __future__ import annotations

import json
import re

import pytest
import trio

from tests.kit.link.three_machines import Guest, lab
from tests.kit.vm.brokers import CTL, PATIENCE, until_there

UNITS = "/srv/broker/data/systemd"
PROGRAMS = ("host", "viewer", "local")
# What the guide says for brokerctl beside the system's unit.
SYSTEM = {
    "XDG_RUNTIME_DIR": "/run/vitrail-host",
    "XDG_STATE_HOME": "/var/lib",
    "XDG_CONFIG_HOME": "/etc",
    "HOME": "/var/lib/vitrail",
}
LINK = 'connect = "vsock:2:6499"\n'


async def install(guest):
    """The programs in /usr/local/bin, the units beside them, as the guide says."""
    for name in PROGRAMS:
        await guest.write(
            f"/usr/local/bin/vitrail-{name}",
            "#!/bin/sh\nPYTHONPATH=/srv PYTHONDONTWRITEBYTECODE=1 "
            f'exec /usr/bin/python3 -m broker.programs.{name} "$@"\n',
            user="root",
        )
    await guest.run(
        "chmod 755 /usr/local/bin/vitrail-* && "
        f"cp {UNITS}/system/* /etc/systemd/system/ && "
        f"cp {UNITS}/user/* /etc/systemd/user/ && "
        "sed -i 's|^ExecStart=|ExecStart=/usr/local/bin/|' "
        "/etc/systemd/system/vitrail-* /etc/systemd/user/vitrail-* && "
        "useradd --system --home-dir /var/lib/vitrail vitrail && systemctl daemon-reload",
        user="root",
    )


async def shown(ctl, unit, *names):
    """Properties of a unit."""
    words = " ".join(f"-p {name}" for name in names)
    said = await ctl(f"show {words} {unit}")
    return dict(re.findall(r"^(\w+)=(.*)$", said, re.MULTILINE))


async def system_unit(guest):
    """A host's broker: ready when 'start' returns, back after kill -9, ends well."""

    async def ctl(words):
        return await guest.run(f"systemctl {words}", user="root")

    async def ask():
        said = await guest.run(
            f"{CTL} status --json",
            user="vitrail",
            env=SYSTEM,
        )
        return json.loads(said)

    await guest.write("/etc/vitrail/link.toml", LINK, user="root")
    await ctl("start vitrail-host.service")
    first = await ask()  # at once: 'start' has waited for its readiness
    assert first["role"] == "host"
    facts = await shown(ctl, "vitrail-host", "MainPID", "ActiveState", "User")
    assert facts == {
        "MainPID": str(first["pid"]),
        "ActiveState": "active",
        "User": "vitrail",
    }
    await guest.run(f"kill -9 {first['pid']}", user="root")
    await until_there(guest, "systemctl show -p NRestarts vitrail-host | grep =1")
    await until_there(guest, "systemctl is-active vitrail-host")
    assert (await ask())["pid"] != first["pid"]
    await ctl("stop vitrail-host.service")
    facts = await shown(ctl, "vitrail-host", "ActiveState", "Result", "ExecMainStatus")
    assert facts == {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainStatus": "0",
    }
    await guest.run("test ! -e /run/vitrail-host/vitrail/control", user="root")


async def user_units(made, guest):
    """A viewer at two sockets: either of them starts it."""
    await guest.run("loginctl enable-linger vit", user="root")
    uid = (await guest.run("id -u")).strip()
    env = {"XDG_RUNTIME_DIR": f"/run/user/{uid}"}
    await until_there(guest, f"test -S /run/user/{uid}/systemd/private")

    async def ctl(words):
        return await guest.run(f"systemctl --user {words}", env=env)

    async def state():
        return (await shown(ctl, "vitrail-viewer.service", "ActiveState"))[
            "ActiveState"
        ]

    await ctl("start vitrail-viewer.socket vitrail-viewer-link.socket")
    assert await state() == "inactive"
    status = json.loads(await guest.run(f"{CTL} status --json", env=env))
    assert (status["role"], status["link"]["state"]) == ("viewer", "waiting")
    assert await state() == "active"

    await ctl("stop vitrail-viewer.service")
    assert await state() == "inactive"
    # The host's first attempt, through the VMM's socket, starts it again.
    assert await knock(made, guest) == b""
    await until_there(guest, "systemctl --user is-active vitrail-viewer", env=env)
    status = json.loads(await guest.run(f"{CTL} status --json", env=env))
    assert status["link"]["refused"] == 1
    await ctl("stop vitrail-viewer.socket vitrail-viewer-link.socket")
    await ctl("stop vitrail-viewer.service")
    facts = await shown(ctl, "vitrail-viewer", "Result", "ExecMainStatus")
    assert facts == {"Result": "success", "ExecMainStatus": "0"}


async def knock(made, guest):
    """Connect to the link without its magic; returns the answer."""
    stream = await trio.open_unix_socket(f"{made.base}/{guest.name}.vsock")
    async with stream:
        await stream.send_all(b"CONNECT 6499\n")
        with trio.fail_after(PATIENCE):
            said = await stream.receive_some(100)
            assert said.startswith(b"OK "), said
            await stream.send_all(b"no magic")
            return await stream.receive_some(100)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_units_in_a_machine_that_systemd_runs():
    async with lab() as made:
        guest = Guest("systemd", 30, systemd=True)
        await made.connect(guest)
        await made.boot(guest)
        await until_there(guest, "systemctl is-system-running --wait || true")
        await install(guest)
        try:
            await system_unit(guest)
            await user_units(made, guest)
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(30):
                for words in ("journalctl -b | tail -60", "systemctl --failed"):
                    print((await guest.try_run(words, user="root"))[1])
            raise
