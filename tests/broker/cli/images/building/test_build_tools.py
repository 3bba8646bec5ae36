"""The choice between this machine's tools and those of a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.cli.images.building import build_room, build_tools
from broker.cli.images.building.build_tools import (
    NATIVE_TOOLS,
    BuildTools,
    prepare_tools,
)
from broker.core.distribution import System
from broker.core.errors import RefusedError, SetupError, UpstreamError

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
        assert await prepare_tools(name, print) is NATIVE_TOOLS
        return
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RefusedError, match="is not the name of a container image"):
        await prepare_tools(name, print)


async def test_container_that_cannot_be_made_says_what_else_there_is(
    tmp_path, monkeypatch
):
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\n[ $1 = build ] && echo 'no such image' >&2\nexit 125\n")  # fmt: skip
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    steps: list[str] = []
    with pytest.raises(UpstreamError, match=r"container of debian:x.*no such image") as caught:  # fmt: skip
        await build_tools.prepare_tools("debian:x", steps.append)
    assert steps == ["preparing a container of debian:x with mmdebstrap"]
    for remedy in ("podman pull debian:x", "--container", "brokerctl image fetch"):
        assert remedy in caught.value.hint
