"""The doctor on this machine: real checks, and remedies that work."""

from __future__ import annotations

import os
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import trio

from broker.authority.audit.store import open_store
from broker.cli.doctor import host, link, shipping, verb, viewer
from broker.cli.doctor.finding import Context, Finding, FindingState
from broker.cli.link.pairing.pinned import pin
from broker.core.errors import UpstreamError
from broker.helpers import landlock
from broker.helpers.shipper.cursor import Cursor
from broker.helpers.shipper.saved_cursor import save_cursor
from broker.ipc.audit.schema import BrokerStop
from broker.ipc.control.types.status import LinkStatus
from broker.net.link.keys import BrokerIdentity, PinnedPeer
from broker.net.link.wire_types import Role
from broker.net.link_service.key_store import LinkStore
from tests.kit.brokerctl import brokerctl, paths_of
from tests.kit.control import ScriptedBroker, serving
from tests.kit.sound.servers import SERVERS, sound_server


@pytest.fixture
def context(env: dict[str, str]) -> Context:
    return Context(paths_of(env), env)


async def test_every_check_says_something_and_every_trouble_what_mends_it(
    env: dict[str, str],
) -> None:
    answer = await brokerctl("doctor", "--json", env=env)
    (report,) = answer.objects
    names = [finding["name"] for finding in report["findings"]]
    assert list(dict.fromkeys(names)) == [name for name, _, _ in verb.CHECKS]
    for finding in report["findings"]:
        assert finding["text"]
        if finding["state"] == "fail":
            assert finding["mend"], finding
    assert answer.code == (0 if report["ok"] else 1)
    page = await brokerctl("doctor", env=env)
    assert page.code == answer.code
    assert " warning" in page.lines[-1]


async def test_a_vsock_that_was_not_mended_is_a_warning(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "vhost-device-vsock"
    tool.write_text("#!/bin/sh\necho vhost-device-vsock 0.3.0\n")
    tool.chmod(0o755)
    monkeypatch.setattr(host.hosttools, "KERNEL_DEVICE", tmp_path / "none")
    monkeypatch.setattr(host.hosttools, "kernel_vsock_usable", lambda: False)
    monkeypatch.setattr(host.hosttools, "find_vhost_device_vsock", lambda _: tool)
    seen: dict[bool, list[Finding]] = {}
    for built in (True, False):
        answer = {"LD_PRELOAD": "/x.so"} if built else {}
        monkeypatch.setattr(host, "hybrid_environment", lambda a=answer: a)
        seen[built] = list(await host.check_vsock(context))
    assert [found.state for found in seen[True]] == [FindingState.OK]
    assert [found.state for found in seen[False]] == [FindingState.WARN]
    assert "vhost-device-vsock 0.3.0" in seen[True][0].text
    assert "blocks if a stream" in seen[False][0].text
    assert seen[False][0].mend


async def test_without_a_runtime_directory_it_says_so_and_goes_on(
    env: dict[str, str],
) -> None:
    del env["XDG_RUNTIME_DIR"]
    answer = await brokerctl("doctor", env=env)
    assert answer.code == 1
    assert "XDG_RUNTIME_DIR is not set" in answer.out
    assert "audit" in answer.out


async def test_runtime_directory(context: Context) -> None:
    run = Path(context.environ["XDG_RUNTIME_DIR"])
    (fine,) = await host.check_runtime(context)
    assert fine.state is FindingState.OK
    run.chmod(0o755)
    (wide,) = await host.check_runtime(context)
    assert (wide.state, wide.mend) == (FindingState.FAIL, f"chmod 700 {run}")
    (run / "vitrail").rmdir()
    run.rmdir()
    (gone,) = await host.check_runtime(context)
    assert (gone.state, gone.mend) == (
        FindingState.FAIL,
        f"sudo install -d -m 700 -o $USER {run}",
    )


@pytest.mark.parametrize(
    ("logged", "text"),
    [
        ("kill_process trap log\n", 'actions_logged="kill_process trap"'),
        ("kill_process trap\n", "cannot fill"),
        (None, ""),
    ],
)
async def test_who_may_fill_the_audit_queue_is_told(
    context, tmp_path, monkeypatch, logged, text
):
    file = tmp_path / "actions_logged"
    if logged is not None:
        file.write_text(logged)
    monkeypatch.setattr(host, "_LOGGED", file)
    found = await host.check_audit_queue(context)
    assert text in "".join(one.text for one in found)
    assert len(found) == (logged is not None)


async def test_a_kernel_without_landlock_is_a_warning(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 7)
    (found,) = await host.check_landlock(context)
    assert (found.state, found.mend) == (FindingState.OK, "")
    monkeypatch.setattr(landlock, "version", lambda: 0)
    (found,) = await host.check_landlock(context)
    assert found.state is FindingState.WARN
    assert "lsm=" in found.mend


async def test_a_check_that_breaks_or_hangs_hides_no_other(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(_: Context) -> list[Finding]:
        raise UpstreamError("it broke", hint="mend it")

    async def unreadable(_: Context) -> list[Finding]:
        raise PermissionError(13, "no")

    async def hangs(_: Context) -> list[Finding]:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(verb, "_CHECK_SECONDS", 0.2)
    checks = [
        (n, check, verb._BOTH)
        for n, check in zip("abc", (breaks, unreadable, hangs), strict=True)
    ]
    monkeypatch.setattr(verb, "CHECKS", checks)
    found = await verb.examine(context)
    assert [(f.name, f.state) for f in found] == [(n, FindingState.FAIL) for n in "abc"]
    assert found[0].mend == "mend it"
    assert "did not finish within" in found[2].text


async def test_policy(context: Context) -> None:
    (none,) = await viewer.check_policy(context)
    assert none.state is FindingState.WARN
    folder = Path(context.environ["HOME"]) / ".config/vitrail/sandboxes.d"
    folder = context.paths.config[0] / "sandboxes.d"
    folder.mkdir(parents=True)
    (folder / "web.toml").write_text("colour = [\n")
    (bad,) = await viewer.check_policy(context)
    assert (bad.state, bad.mend) == (FindingState.FAIL, "brokerctl policy check")
    assert "web.toml:1:" in bad.text


async def test_broker(context: Context) -> None:
    (none,) = await viewer.check_broker(context)
    assert "no broker is running" in none.text
    async with serving(context.paths.control, ScriptedBroker()):
        (one,) = await viewer.check_broker(context)
        assert f"pid {os.getpid()}" in one.text
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(context.paths.control))
    (killed,) = await viewer.check_broker(context)
    assert (killed.state, "killed broker" in killed.text) == (FindingState.OK, True)
    context.paths.control.chmod(0)
    (closed,) = await viewer.check_broker(context)
    assert closed.state is FindingState.WARN
    assert "cannot connect to the broker" in closed.text


def _settings(context: Context, text: str) -> None:
    context.paths.config[0].mkdir(parents=True, exist_ok=True)
    (context.paths.config[0] / "link.toml").write_text(text)


@pytest.mark.parametrize(
    ("text", "lacks", "has"),
    [
        ('connect = "vsock:7:6499"\n', {"compositor", "sound"}, {"QEMU", "KVM"}),
        ('listen = "unix:/x/y"\n', {"QEMU", "KVM", "images"}, {"compositor", "sound"}),
    ],
)
async def test_each_of_two_machines_has_its_own_checks(
    env: dict[str, str], context: Context, text: str, lacks: set[str], has: set[str]
) -> None:
    _settings(context, text)
    (report,) = (await brokerctl("doctor", "--json", env=env)).objects
    names = {finding["name"] for finding in report["findings"]}
    assert not lacks & names
    assert has | {"link", "broker", "audit"} <= names


async def test_link(context: Context, tmp_path: Path) -> None:
    (alone,) = await link.check_link(context)
    assert "host and viewer in one" in alone.text
    _settings(context, f'connect = "unix:{tmp_path}/link"\n')
    (unpaired,) = await link.check_link(context)
    assert unpaired.state is FindingState.FAIL
    # On each machine as it is, and in the order in which it works.
    assert "--as viewer' on the viewer, then" in unpaired.mend
    store = LinkStore(context.paths)
    assert not store.directory.exists(), "doctor changes nothing"
    pin(
        store,
        PinnedPeer("desk", Role.VIEWER, BrokerIdentity.from_seed(bytes(32)).public),
    )
    _, down = await link.check_link(context)
    assert (down.state, "vitrail-host" in down.mend) == (FindingState.WARN, True)
    status = LinkStatus(
        role="host", endpoint="unix:/x", state="dialling", since=1.0, version=2,
        problem="the viewer has version 1 of the link", cure="the broker's own words",
    )  # fmt: skip
    plain = ScriptedBroker().state
    found = {}
    for name, one in (
        ("dialling", status),
        ("alone", None),
        (
            "silent",
            msgspec.structs.replace(status, state="up", problem="", name="desk"),
        ),
    ):
        scripted = ScriptedBroker(state=msgspec.structs.replace(plain, link=one))
        async with serving(context.paths.control, scripted):
            _, found[name] = await link.check_link(context)
    assert found["dialling"].state is FindingState.FAIL
    assert "version 1 of the link" in found["dialling"].text
    assert found["dialling"].mend == "the broker's own words"
    assert "without a link" in found["alone"].text
    assert "desk does not answer" in found["silent"].text


async def test_audit(context: Context) -> None:
    (none,) = await viewer.check_audit(context)
    assert none.state is FindingState.OK
    async with open_store(context.paths.audit) as store:
        for _ in range(300):
            await store.record(BrokerStop(reason="x" * 200))
    (whole,) = await viewer.check_audit(context)
    key = context.paths.audit.with_suffix(".key")
    key.rename(key.with_suffix(".away"))
    (cut,) = await viewer.check_audit(context)
    assert "signing key is missing" in cut.text
    key.with_suffix(".away").rename(key)
    assert "300 events" in whole.text
    assert "each verified" in whole.text
    with closing(sqlite3.connect(context.paths.audit)) as db, db:
        db.execute(
            "UPDATE event SET body = replace(body, 'xxx', 'xyx') WHERE sequence = 29"
        )
    (forged,) = await viewer.check_audit(context)
    assert (forged.state, "event 29" in forged.text) == (FindingState.FAIL, True)
    with context.paths.audit.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 4096)
    found = await verb._careful(context, "audit", viewer.check_audit)
    assert found[0].state is FindingState.FAIL


async def test_shipping(context: Context) -> None:
    (none,) = await shipping.check_shipping(context)
    assert (none.state, "ship.toml does not exist" in none.text) == (
        FindingState.OK,
        True,
    )
    context.paths.config[0].mkdir(parents=True, exist_ok=True)
    config = context.paths.config[0] / "ship.toml"
    config.write_text("[[target]]\nname = 'a'\nto = 'moon'\n")
    (bad,) = await shipping.check_shipping(context)
    assert (bad.state, "moon" in bad.text) == (FindingState.FAIL, True)
    config.write_text(
        f"[[target]]\nname = 'file'\nto = 'jsonl'\npath = '{config.parent / 'out'}'\n"
        "[[target]]\nname = 'lost'\nto = 'jsonl'\npath = '/x/y'\n"
        "[[target]]\nname = 'fleet'\nto = 'postgresql'\n"
        "address = 'postgresql:///nothing?host=/nowhere'\n"
    )
    file, lost, fleet = await shipping.check_shipping(context)
    assert file.state is FindingState.OK
    assert not (config.parent / "out").exists(), "doctor changes nothing"
    # The line that a running shipper writes at this moment.
    (config.parent / "out").write_text('{"log":"0')
    assert (await shipping.check_shipping(context))[0].state is FindingState.OK
    assert (config.parent / "out").read_text() == '{"log":"0'
    assert (lost.state, "/x/y" in lost.text) == (FindingState.WARN, True)
    assert (fleet.state, "database" in fleet.text) == (FindingState.WARN, True)
    save = Cursor(name="file", problem="no room")
    context.paths.shipping.mkdir(parents=True)
    save_cursor(context.paths.shipping, save)
    (full, *_) = await shipping.check_shipping(context)
    assert (full.state, "no room" in full.text) == (FindingState.WARN, True)


def test_globals_that_are_missing_are_named() -> None:
    path = Path("/run/wayland-1")
    everything = {**viewer.NEEDED, **dict.fromkeys(viewer.WANTED, 1)}
    assert [f.state for f in viewer.judge_globals(path, everything)] == [
        FindingState.OK
    ]
    (old,) = viewer.judge_globals(path, {**everything, "wl_seat": 4})
    assert old.state is FindingState.FAIL
    assert "wl_seat 5" in old.text
    plain = viewer.judge_globals(path, viewer.NEEDED)
    assert [f.state for f in plain] == [
        FindingState.OK,
        FindingState.WARN,
        FindingState.WARN,
    ]


async def test_no_compositor_and_one_that_hangs(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    (none,) = await viewer.check_compositor(context)
    assert none.state is FindingState.WARN
    assert "WAYLAND_DISPLAY" in none.mend
    monkeypatch.setattr(viewer, "_COMPOSITOR_SECONDS", 0.3)
    path = Path(context.environ["XDG_RUNTIME_DIR"]) / "wayland-0"
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(path))
        stuck.listen()
        (hung,) = await viewer.check_compositor(context)
    assert hung.state is FindingState.FAIL
    assert "did not answer in 0.3 s" in hung.text


@pytest.mark.skipif(os.getuid() == 0, reason="sway does not run as root")
async def test_a_real_compositor(context: Context) -> None:
    from tests.kit.wayland.compositor import desktop

    async with desktop() as comp:
        env = {**context.environ, "WAYLAND_DISPLAY": str(comp.display)}
        found = await viewer.check_compositor(Context(context.paths, env))
    assert found[0].state is FindingState.OK, found
    assert str(comp.display) in found[0].text


async def test_no_sound_server_and_one_that_hangs(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    (none,) = await viewer.check_sound(context)
    assert none.state is FindingState.WARN
    assert "sandboxes have no sound" in none.text
    monkeypatch.setattr(viewer, "_SOUND_SECONDS", 0.3)
    path = Path(context.environ["XDG_RUNTIME_DIR"]) / "pulse/native"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(path))
        stuck.listen()
        (hung,) = await viewer.check_sound(context)
    assert hung.state is FindingState.FAIL
    assert "did not answer in 0.3 s" in hung.text


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_real_sound_server(context: Context, kind: str) -> None:
    async with sound_server(kind) as server:
        env = {**context.environ, "PULSE_SERVER": f"unix:{server.socket}"}
        (found,) = await viewer.check_sound(Context(context.paths, env))
    assert found.state is FindingState.OK, found
    assert f"{server.socket}: " in found.text
    assert "1 output" in found.text


@pytest.mark.parametrize("namespace", [None, 7])
async def test_whose_user_id_boxes_have_is_told(
    monkeypatch: pytest.MonkeyPatch, context: Context, namespace: int | None
) -> None:
    monkeypatch.setattr(host, "subordinate_namespace", lambda *_: namespace)
    (found,) = await host.check_bubblewrap(context)
    assert ("/etc/subuid" in found.text) is (namespace is None)
    assert "user ID" in found.text
