"""What the doctor says of records of boxes and containers."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from broker.cli.doctor import launchers
from broker.cli.doctor.finding import Context, FindingState
from broker.cli.doctor.launchers import check_launchers
from broker.cli.images import x11_needs
from broker.cli.launchers import microvm, podman
from broker.core.errors import SetupError
from broker.core.paths import find_paths
from broker.host.images.store import GPU_PACKAGES
from broker.host.launchers.nspawn import process


def context(base, records, path="/nowhere"):
    environ = {
        "XDG_RUNTIME_DIR": "/nowhere",
        "XDG_CONFIG_HOME": str(base / "config"),
        "XDG_CONFIG_DIRS": "/nowhere",
        "HOME": str(base),
        "PATH": path,
    }
    folder = base / "config" / "vitrail" / "sandboxes.d"
    folder.mkdir(parents=True)
    for name, kind in records.items():
        text = f'class = "persistent"\n[launch]\nkind = "{kind}"\n'
        (folder / f"{name}.toml").write_text(text)
    return Context(find_paths(environ), environ)


async def test_without_such_records_nothing_is_needed(tmp_path):
    (found,) = await check_launchers(context(tmp_path, {}))
    assert found.state is FindingState.OK


async def test_a_program_that_is_missing_is_named_with_its_package(tmp_path):
    found = await check_launchers(context(tmp_path, {"a": "bwrap", "b": "podman"}))
    missing = {one.mend for one in found if "not installed" in one.text}
    assert missing == {"sudo apt install bubblewrap", "sudo apt install podman"}


async def test_a_shared_box_is_called_a_label(tmp_path):
    found = await check_launchers(context(tmp_path, {"t1": "shared-box"}))
    (label,) = [one for one in found if "labels, not boundaries" in one.text]
    assert label.state is FindingState.WARN
    assert label.text.startswith("t1:")


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ((), "not contain a render node"),
        (("renderD128",), "this user cannot open"),
        (None, ""),
    ],
)
async def test_a_record_that_draws_with_a_gpu_needs_one_of_ours(
    tmp_path, monkeypatch, nodes, said
):
    found = tuple(tmp_path / name for name in ("mine",) if nodes is None)
    for node in found:
        node.touch()
    closed = tuple(tmp_path / name for name in nodes or ())
    for node in closed:
        node.touch()
    monkeypatch.setattr(launchers, "render_nodes", lambda: (*closed, *found))
    monkeypatch.setattr(launchers.os, "access", lambda path, _: path in found)
    made = context(tmp_path, {"t1": 'bwrap"\ngpu = "buffers', "t2": "bwrap"})
    texts = [one.text for one in await check_launchers(made) if "gpu" in one.text]
    if said:
        (text,) = texts
        assert text.startswith("t1:")
        assert said in text
    else:
        assert texts == []


async def test_a_machine_with_a_gpu_needs_a_renderer_and_a_driver(
    tmp_path, monkeypatch
):
    def missing():
        raise SetupError("no such program", hint="install it")

    monkeypatch.setattr(microvm, "find_renderer", missing)
    monkeypatch.setattr(microvm, "own_node", lambda: None)
    (tmp_path / "initrd").write_bytes(b"")
    image = SimpleNamespace(
        name="default",
        initrd=tmp_path / "initrd",
        manifest=SimpleNamespace(versions=dict.fromkeys(GPU_PACKAGES, "1")),
    )
    monkeypatch.setattr(microvm, "list_images", lambda _: [image])
    made = context(tmp_path, {"t1": 'microvm"\ngpu = "render'})
    found = {one.text: one.mend for one in await check_launchers(made)}
    assert found == {
        "no such program": "install it",
        "the image default lacks a GPU driver or Mesa": (
            "brokerctl image build default --gpu"
        ),
    }
    made = context(tmp_path / "other", {"t1": "microvm"})
    assert "no such program" not in {one.text for one in await check_launchers(made)}


async def test_nspawn_needs_two_packages(tmp_path):
    made = context(tmp_path, {"t1": 'nspawn"\nrootfs = "/srv/tree'})
    found = await check_launchers(made)
    missing = {one.mend for one in found if "not installed" in one.text}
    assert missing == {"sudo apt install systemd-container", "sudo apt install uidmap"}


def image_with(*packages):
    spec = SimpleNamespace(all_packages=packages)
    return SimpleNamespace(name="old", manifest=SimpleNamespace(spec=spec))


async def test_a_record_with_x11_needs_an_x_server(tmp_path, monkeypatch):
    shows = '"\n[window]\nx11 = true #"'
    kinds = {"box": f"bwrap{shows}", "vm": f'microvm"\nimage = "old{shows}'}
    monkeypatch.setattr(x11_needs, "list_images", lambda _: [image_with("foot")])
    found = await check_launchers(context(tmp_path, kinds))
    mends = {one.mend for one in found if "Xwayland" in one.text}
    assert mends == {"sudo apt install xwayland", "brokerctl image build old --x11"}
    monkeypatch.setattr(x11_needs, "list_images", lambda _: [image_with("xwayland")])
    found = await check_launchers(context(tmp_path / "b", kinds))
    mends = {one.mend for one in found if "Xwayland" in one.text}
    assert mends == {"sudo apt install xwayland"}


NETWORK = 'bwrap"\nnetwork = "user'
IP = """#!/bin/sh
echo "$@" > {log}
echo "Error: Unknown device type." >&2
exit {code}
"""


@pytest.mark.parametrize("code", [0, 2])
async def test_a_network_needs_a_virtual_cable(tmp_path, code):
    """Tried as the launcher does it, in a separate network namespace."""
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    (tools / "ip").write_text(IP.format(log=log, code=code))
    (tools / "ip").chmod(0o755)
    made = context(tmp_path, {"a": NETWORK}, path=f"{tools}:{os.environ['PATH']}")
    found = [f for f in await check_launchers(made) if "veth" in f.text]
    if "unshare failed" in "".join(f.text for f in found) and not log.exists():
        pytest.skip("no user namespaces here")
    assert log.read_text() == "link add type veth\n"
    assert [f.mend for f in found] == ["sudo modprobe veth"] * bool(code)
    assert all("Unknown device type" in f.text for f in found)


async def test_a_box_without_a_network_needs_no_cable(tmp_path):
    found = await check_launchers(context(tmp_path, {"a": "bwrap"}))
    assert not [one for one in found if "network" in one.text]


async def test_nspawn_without_a_control_group_is_named(tmp_path, monkeypatch):
    """Its start would be refused; doctor said that it can be started."""
    monkeypatch.setattr(process, "may_divide", lambda: False)
    made = context(tmp_path, {"t1": 'nspawn"\nrootfs = "/srv/tree'})
    found = await check_launchers(made)
    (one,) = [one for one in found if "control group" in one.text]
    assert "enable-linger" in one.mend


@pytest.mark.parametrize(
    ("mixed", "runtime", "named"),
    [(True, "crun", True), (True, "runc", False), (False, "crun", False)],
)
async def test_crun_with_mixed_control_groups_is_named(
    tmp_path, monkeypatch, mixed, runtime, named
):
    monkeypatch.setattr(podman, "_MIXED", tmp_path if mixed else tmp_path / "no")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "podman").write_text(f"#!/bin/sh\necho {runtime}\n")
    (tools / "podman").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    found = await check_launchers(context(tmp_path, {"a": "podman"}, path))
    assert any("crun cannot start containers" in one.text for one in found) is named
