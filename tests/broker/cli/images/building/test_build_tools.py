"""The choice between this machine's tools and those of a container."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import trio

from broker.cli.images.building import build_room, build_tools, files
from broker.cli.images.building.build_tools import (
    NATIVE_TOOLS,
    BuildTools,
    open_tools,
)
from broker.core.distribution import System
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.helpers.process.spawn import run_tool

CONTAINER = BuildTools("localhost/builder:1")


def has(*programs):
    return lambda tool: f"/usr/bin/{tool}" if tool in programs else None


def test_machine_with_the_tools_builds_without_a_container(monkeypatch):
    monkeypatch.setattr(build_room, "which", has(*build_room.BUILD_TOOLS))
    assert not build_room.needed_container(*build_room.BUILD_TOOLS)


def test_machine_with_podman_alone_builds_in_a_container(monkeypatch):
    monkeypatch.setattr(build_room, "which", has("podman"))
    assert build_room.needed_container("mmdebstrap") == "debian:trixie"


@pytest.mark.parametrize(
    ("system", "hint"),
    [
        ("debian", "sudo apt install mmdebstrap"),
        ("fedora", "sudo dnf install podman"),
    ],
)
def test_machine_without_tools_and_podman_gets_a_hint_that_works(
    monkeypatch, system, hint
):
    monkeypatch.setattr(build_room, "which", has())
    monkeypatch.setattr(build_room, "read_system", lambda: System({"ID": system}))
    with pytest.raises(SetupError, match="mmdebstrap is not installed, nor is podman") as caught:  # fmt: skip
        build_room.needed_container("mmdebstrap")
    assert caught.value.hint == hint


def test_file_system_is_made_without_network_and_rights():
    argv = CONTAINER.jailed_argv(Path("/room"), {Path("/x/ext2.py"): "/ext2.py"}, ["genext2fs"])  # fmt: skip
    assert argv[:2] == ["podman", "run"]
    assert argv[-2:] == ["localhost/builder:1", "genext2fs"]
    assert {"--network=none", "--cap-drop=ALL", "--pull=never", "--rm"} < {*argv}
    assert "--volume=/room:/work" in argv
    assert "--volume=/x/ext2.py:/ext2.py:ro" in argv


def test_mmdebstrap_in_a_container_gets_its_settings_by_arguments(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    argv, env = CONTAINER.bootstrap_command(["mmdebstrap"], {"KERNEL": "k"}, Path("/w"))
    assert "--env=KERNEL=k" in argv
    assert env["HOME"] == "/home/me", "podman reads its settings there"
    argv, env = NATIVE_TOOLS.bootstrap_command(["mmdebstrap"], {"KERNEL": "k"})
    assert (argv, env["KERNEL"]) == (["mmdebstrap"], "k")


@pytest.mark.parametrize(
    "name", ["debian\nRUN id", "debian AS x", "", "-v", "a$b", "x" * 300]
)
async def test_name_that_is_not_one_of_a_container_is_refused(name, monkeypatch):
    if not name:
        async with open_tools(name, print) as tools:
            assert tools is NATIVE_TOOLS
        return
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RefusedError, match="is not the name of a container image"):
        async with open_tools(name, print):
            pass


async def test_container_that_cannot_be_made_says_what_else_there_is(
    tmp_path, monkeypatch
):
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\n[ $1 = build ] && echo 'no such image' >&2\nexit 125\n")  # fmt: skip
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    steps: list[str] = []
    with pytest.raises(UpstreamError, match=r"container of debian:x.*no such image") as caught:  # fmt: skip
        async with open_tools("debian:x", steps.append):
            pass
    assert steps == ["preparing a container of debian:x with mmdebstrap"]
    for remedy in ("podman pull debian:x", "--container", "brokerctl image fetch"):
        assert remedy in caught.value.hint


FAKE_PODMAN = """\
#!/bin/sh
echo "$*" >>{log}
[ $1 != run ] || exec sleep 1000
"""


async def test_container_ends_with_the_build_that_is_cancelled(tmp_path, monkeypatch):
    """Attack: it writes to the directories of the build after its deadline."""
    log = tmp_path / "log"
    podman = tmp_path / "podman"
    podman.write_text(FAKE_PODMAN.format(log=log))
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with trio.move_on_after(1):
        async with open_tools("debian:x", print) as tools:
            assert "--timeout=" in " ".join(tools.jailed_argv(tmp_path, {}, ["true"]))
            await run_tool(tools.jailed_argv(tmp_path, {}, ["true"]))
    (last,) = log.read_text().splitlines()[-1:]
    assert last == f"rm --force --ignore --time=0 {tools.name}"


async def test_container_of_root_does_not_build(monkeypatch):
    monkeypatch.setattr(build_tools.os, "geteuid", lambda: 0)
    with pytest.raises(RefusedError, match="as root"):
        async with open_tools("debian:x", print):
            pass


def test_links_in_place_of_archives_are_refused(tmp_path):
    """Attack: the container's boot.tar is a link to a file of the user."""
    output = tmp_path / "room"
    output.mkdir()
    (tmp_path / "secret").write_text("x")
    (output / "root.tar").write_text("")
    (output / "boot.tar").symlink_to(tmp_path / "secret")
    with pytest.raises(UpstreamError, match=r"did not write boot\.tar"):
        files.take_archives(output, tmp_path)


async def test_links_of_a_kernel_package_bring_no_file_of_the_user(tmp_path):
    """Attack: boot/vmlinuz-6.1 is a link to ~/.ssh/id_ed25519."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    tree = tmp_path / "tree/vitrail-boot/unpacked/boot"
    tree.mkdir(parents=True)
    (tree / "vmlinuz-6.1").symlink_to(secret)
    (tree.parent / "usr").symlink_to(tmp_path)
    argv = [
        "tar",
        "-C",
        tmp_path / "tree",
        "-cf",
        tmp_path / "boot.tar",
        "vitrail-boot",
    ]
    subprocess.run(argv, check=True)
    with pytest.raises(UpstreamError, match="do not contain boot/vmlinuz"):
        await files.make_boot(tmp_path)
