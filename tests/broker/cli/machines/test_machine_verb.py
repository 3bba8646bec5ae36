"""``brokerctl machine arguments``: what it refuses, and what it leaves alone."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace

import pytest

from broker.cli.launchers.scripts import script_machine
from broker.cli.machines.machine_verb import _FAILED
from broker.core.errors import RefusedError, SetupError
from broker.core.paths import find_paths
from broker.host.homes.store import HomeStore
from tests.kit.brokerctl import brokerctl, home

RECORD = """
class = "persistent"
[launch]
kind = "external"
memory = "1G"
[state]
disk_size = "64M"
[peer]
hybrid = "{place}"
"""


@pytest.fixture
def world():
    with home() as env:
        paths = find_paths(env)
        folder = paths.config[0] / "sandboxes.d"
        folder.mkdir(parents=True)
        place = paths.runtime / "fox/vm.vsock"
        (folder / "fox.toml").write_text(RECORD.format(place=place))
        yield SimpleNamespace(env=env, paths=paths, folder=folder, place=place)


async def test_a_dry_run_prints_and_makes_nothing(world):
    done = await brokerctl("machine", "arguments", "fox", "--dry-run", env=world.env)
    assert done.code == 0, done.err
    assert f"path={world.place}.vhost" in done.out
    assert "drive=home" in done.out
    assert len(done.lines) == 1
    assert not world.paths.homes.exists()
    assert not world.place.parent.exists()
    kernel = await brokerctl("machine", "arguments", "fox", "--kernel", env=world.env)
    assert kernel.out == "vitrail.name=fox vitrail.keep=home\n"


async def test_a_record_of_another_kind_is_refused_before_anything_starts(world):
    (world.folder / "box.toml").write_text('class = "disposable"\n')
    words = ("machine", "arguments", "box", "--leader", str(os.getpid()))
    done = await brokerctl(*words, env=world.env)
    assert done.code == 1
    assert "its record does not say that a script of yours starts it" in done.err
    assert "box.toml" in done.err
    assert not world.paths.control.exists()


@pytest.mark.parametrize("name", ["nobody", "box"])
async def test_after_an_error_qemu_gets_a_word_that_it_refuses(world, name):
    (world.folder / "box.toml").write_text('class = "disposable"\n')
    done = await brokerctl("machine", "arguments", name, "--dry-run", env=world.env)
    assert done.code == 1
    assert done.out == f"{_FAILED}\n"
    assert name in done.err


def test_a_record_of_another_kind_has_no_arguments(world):
    (world.folder / "box.toml").write_text('class = "disposable"\n')
    with pytest.raises(RefusedError, match="a script of yours starts it"):
        script_machine.script_record(world.paths, "box")


def test_each_of_several_machines_has_a_directory_of_its_own(world):
    text = RECORD.split("[state]", maxsplit=1)[0].replace("persistent", "disposable")
    text += f'[peer]\nhybrid_directory = "{world.paths.runtime}"\n'
    (world.folder / "web.toml").write_text(text)
    record, launch = script_machine.script_record(world.paths, "web")
    wanted = script_machine.ScriptRequest(record, launch, "qemu", "pci")
    one, two = (script_machine.planned(world.paths, wanted, n) for n in (7, 8))
    assert one.uds == world.paths.runtime / "web-7/vm.vsock"
    assert two.uds.parent != one.uds.parent
    for machine in (one, two):
        assert launch.peer.is_at("hybrid", str(machine.uds))


def test_a_vsock_is_served_in_a_directory_that_has_nothing_else(tmp_path):
    room = tmp_path / "room"
    script_machine.make_room(room)
    assert room.stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as left:
        os.chdir(room)
        left.bind("vm.vsock")
    script_machine.make_room(room)  # what a killed machine has left
    (room / "diary").write_text("mine")
    with pytest.raises(SetupError, match="it contains diary"):
        script_machine.make_room(room)
    (room / "diary").unlink()
    room.chmod(0o755)
    with pytest.raises(SetupError, match="others may enter"):
        script_machine.make_room(room)
    link = tmp_path / "link"
    room.chmod(0o700)
    link.symlink_to(room)
    with pytest.raises(SetupError):
        script_machine.make_room(link)


@pytest.mark.parametrize("state", ['[state]\ndisk_size = "64M"\n', ""])
async def test_a_machine_that_runs_is_not_started_again(world, state):
    text = (
        RECORD.split("[state]", maxsplit=1)[0]
        + state
        + f'[peer]\nhybrid = "{world.place}"\n'
    )
    (world.folder / "fox.toml").write_text(text)
    record, launch = script_machine.script_record(world.paths, "fox")
    reports = []
    wanted = script_machine.ScriptRequest(record, launch, "qemu", "pci")
    with HomeStore(world.paths.homes).lock("fox"):
        await script_machine.serve(world.paths, wanted, os.getpid(), reports.append)
    (report,) = reports
    assert "in use" in report.error
    assert not world.place.parent.exists()


def test_an_image_of_the_user_s_is_whole_pages(world):
    image = world.paths.runtime / "root.img"
    text = RECORD.replace(
        "[state]", f'shared_image = true\nimage_file = "{image}"\n[state]'
    )
    (world.folder / "fox.toml").write_text(text.format(place=world.place))
    record, launch = script_machine.script_record(world.paths, "fox")
    wanted = script_machine.ScriptRequest(record, launch, "qemu", "pci")
    with pytest.raises(SetupError, match="No such file"):
        script_machine.planned(world.paths, wanted, 1)
    world.paths.runtime.mkdir(parents=True, exist_ok=True)
    image.write_bytes(bytes(4096))
    with pytest.raises(SetupError, match="multiple of 2 MiB"):
        script_machine.planned(world.paths, wanted, 1)
    os.truncate(image, 4 << 20)
    assert script_machine.planned(world.paths, wanted, 1).image_bytes == 4 << 20


def test_each_folder_and_each_place_has_a_device(world):
    more = "folders = 2\npixel_arena = true\n[folders]\nread_only = ['/srv/papers']\n"
    text = RECORD.replace("[state]", f"{more}[state]").format(place=world.place)
    (world.folder / "fox.toml").write_text(text)
    record, launch = script_machine.script_record(world.paths, "fox")
    wanted = script_machine.ScriptRequest(record, launch, "qemu", "pci")
    machine = script_machine.planned(world.paths, wanted, 7)
    assert [path.name for path in machine.folders] == [f"folder-{n}" for n in range(3)]
    # Not where vhost-device-vsock can write.
    assert machine.folders[0].parent != machine.uds.parent
    assert machine.arena_bytes


async def test_initrd_and_kernel_are_two_calls(world):
    words = ("machine", "arguments", "fox", "--initrd", "--kernel")
    done = await brokerctl(*words, env=world.env)
    assert done.code == 2
    assert "exclude each other" in done.err


async def test_without_an_image_there_is_no_initrd(world):
    done = await brokerctl("machine", "arguments", "fox", "--initrd", env=world.env)
    assert done.code == 1
    assert done.out == f"{_FAILED}\n"
    assert "image build" in done.err
