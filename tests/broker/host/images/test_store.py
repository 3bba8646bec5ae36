from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from dataclasses import replace
from importlib import resources
from pathlib import Path

import msgspec
import pytest

from broker.cli.images import installed
from broker.cli.images.building import build
from broker.cli.images.building.initramfs_build import build_initramfs
from broker.core import limits
from broker.core.errors import RefusedError, SetupError
from broker.core.paths import Paths
from broker.host.images import store
from broker.host.images.initramfs import agent_overlay, modules_overlay, passes_settings
from broker.host.images.store import ImageSpec, Manifest
from shims.bundle import files_tool, guest_agent, with_constants
from shims.guest.launch import LAUNCH_FILE


@pytest.fixture
def paths(tmp_path):
    made = Paths(tmp_path / "run", tmp_path / "state", tmp_path / "cache", ())
    made.images.mkdir(parents=True)
    return made


def put_image(paths, name="default", **changes):
    """An image's directory as a build leaves it (the files are not bootable)."""
    directory = paths.images / f".{name}.0"
    directory.mkdir()
    manifest = Manifest(
        format=store.FORMAT,
        spec=ImageSpec(name=name),
        kernel="6.1.0-1-cloud-amd64",
        versions={"waypipe": "0.8.4-3"},
        built=1000.0,
        digest="0" * 64,
        agent=hashlib.sha256(guest_agent()).hexdigest(),
    )
    manifest = msgspec.structs.replace(manifest, **changes)
    (directory / "manifest.json").write_bytes(installed.manifest_bytes(manifest))
    for file in ("kernel", "initrd", "root"):
        (directory / file).write_bytes(file.encode())
    (paths.images / name).symlink_to(directory.name)
    return directory


def test_missing_image_says_how_to_make_it(paths):
    with pytest.raises(SetupError) as caught:
        store.find_image(paths, "default")
    assert "no guest image 'default'" in str(caught.value)
    assert "brokerctl image build default" in caught.value.hint


def test_found_image_has_files_suite_waypipe_and_age(paths):
    directory = put_image(paths)
    image = store.find_image(paths, "default")
    assert image.root == directory / "root"
    assert image.kernel.read_bytes() == b"kernel"
    assert (image.suite, image.waypipe) == (store.DEFAULT_SUITE, "0.8.4-3")
    assert image.age(now=1060.0) == 60.0
    assert image.age(now=900.0) == 0.0, "a clock that was set back"


@pytest.mark.parametrize("file", ["manifest.json", "kernel", "initrd", "root"])
def test_image_with_a_missing_file_is_none(paths, file):
    directory = put_image(paths)
    (directory / file).unlink()
    with pytest.raises(SetupError, match="default"):
        store.find_image(paths, "default")
    assert installed.list_images(paths) == []


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\xff", b'{"format":1,"more":2}'])
def test_image_with_a_broken_manifest_is_none(paths, text):
    (put_image(paths) / "manifest.json").write_bytes(text)
    with pytest.raises(SetupError, match="cannot use") as caught:
        store.find_image(paths, "default")
    assert "image build" in caught.value.hint


def test_image_of_another_format_is_built_again(paths):
    put_image(paths, format=store.FORMAT + 1)
    with pytest.raises(SetupError, match="manifest format"):
        store.find_image(paths, "default")


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", ".x", "A", "a" * 32, "a\n"])
def test_names_that_are_no_names(paths, name):
    for action in (store.find_image, installed.remove_image):
        with pytest.raises(RefusedError, match="not an image name"):
            action(paths, name)
    with pytest.raises(RefusedError):
        ImageSpec(name=name)


def test_longest_name(paths):
    assert store.take_image_name("a" * 31)


@pytest.mark.parametrize(
    "changes",
    [
        {"suite": "-o"},
        {"suite": "a b"},
        {"packages": ("--help",)},
        {"packages": ("a,b",)},
        {"packages": ("dbus-",)},
        {"packages": ("a b",)},
        {"packages": ("../x",)},
        {"kernel": "linux;rm"},
        {"kernel": ""},
    ],
)
def test_words_that_would_be_options_or_commands_are_refused(changes):
    with pytest.raises(RefusedError):
        ImageSpec(**changes)


def test_number_of_packages_is_limited():
    names = tuple(f"package{n}" for n in range(limits.IMAGE_PACKAGES))
    ImageSpec(packages=names)
    with pytest.raises(RefusedError, match="packages"):
        ImageSpec(packages=(*names, "one-more"))


def test_what_the_agent_needs_is_always_in():
    spec = ImageSpec(packages=("foot", "foot", "bash"))
    assert spec.all_packages == ("bash", "foot", "python3", "waypipe")


def test_what_an_image_is_made_of(paths):
    spec = ImageSpec(name="a", packages=("foot", "bash"))
    put_image(paths, "a", spec=spec, recipe=installed.recipe())
    manifest = store.find_image(paths, "a").manifest
    assert installed.is_made_of(
        manifest, ImageSpec(name="b", packages=("bash", "foot"))
    )
    for other in (
        replace(spec, suite="bookworm"),
        replace(spec, packages=("foot",)),
        replace(spec, kernel="linux-image-amd64"),
    ):
        assert not installed.is_made_of(manifest, other)


def test_image_of_another_recipe_is_usable_but_built_again(paths):
    put_image(paths)
    manifest = store.find_image(paths).manifest
    assert not installed.is_made_of(manifest, manifest.spec)


def test_list_and_remove(paths):
    put_image(paths, "one")
    put_image(paths, "two")
    (paths.images / ".one.lock").touch()
    assert [image.name for image in installed.list_images(paths)] == ["one", "two"]
    installed.remove_image(paths, "one")
    assert [image.name for image in installed.list_images(paths)] == ["two"]
    assert not (paths.images / ".one.0").exists()
    with pytest.raises(SetupError, match="no guest image 'one'"):
        installed.remove_image(paths, "one")


def test_removed_image_stays_readable_for_who_has_it_open(paths):
    put_image(paths)
    with store.find_image(paths).root.open("rb") as file:
        installed.remove_image(paths, "default")
        assert file.read() == b"root"


def test_current_agent_needs_no_other_initramfs(paths, tmp_path):
    put_image(paths)
    image = store.find_image(paths)
    assert image.write_initrd(tmp_path) == image.initrd


def test_other_agent_is_brought_by_the_initramfs(paths, tmp_path):
    put_image(paths, agent="0" * 64)
    image = store.find_image(paths)
    made = image.write_initrd(tmp_path)
    assert made.parent == tmp_path
    assert made.read_bytes() == b"initrd" + agent_overlay(guest_agent())


SETTINGS = {"LAUNCH_SECRET": "ab" * 32}


def test_settings_of_a_launch_are_a_file_and_the_images_bytecode_stays(paths, tmp_path):
    """A guest that compiles the agent takes a quarter of a second more, emulated three."""
    directory = put_image(paths)
    (directory / "initrd").write_bytes(b"cp /agent/launch.json /root")
    made = store.find_image(paths).write_initrd(tmp_path, SETTINGS)
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    content = made.read_bytes()
    assert b"agent/vitrail_guest.py" not in content
    assert content.endswith(agent_overlay(b"", SETTINGS))
    assert json.dumps(SETTINGS).encode() in content


def test_for_the_init_of_an_older_image_they_are_in_the_agents_source(paths, tmp_path):
    put_image(paths)
    content = store.find_image(paths).write_initrd(tmp_path, SETTINGS).read_bytes()
    shim = with_constants(guest_agent().decode(), SETTINGS).encode()
    assert content == b"initrd" + agent_overlay(shim)


def test_the_modules_of_a_network_stay_for_a_machine_that_may_get_one(paths, tmp_path):
    directory = put_image(paths)
    modules = {"ext4": b"", "virtio_net": b""}
    (directory / "initrd").write_bytes(build_initramfs(b"", modules, b""))
    image = store.find_image(paths)
    assert image.write_initrd(tmp_path) == image.initrd
    content = image.write_initrd(tmp_path, network=False).read_bytes()
    more = modules_overlay(image.initrd.read_bytes(), folders=False, network=False)
    assert more
    assert content == image.initrd.read_bytes() + more


@pytest.mark.parametrize(
    ("size", "driver", "shared"),
    [
        (4 << 20, True, True),
        (4 << 20, False, False),
        ((4 << 20) - 4096, True, False),
        ((4 << 20) + 4096, True, False),
        (0, True, False),
    ],
)
def test_an_image_of_an_older_version_is_not_shared_as_memory(
    paths, size, driver, shared
):
    directory = put_image(paths)
    init = (resources.files("broker") / "data/image/init").read_bytes()
    modules = {"virtio_pmem": b""} if driver else {}
    (directory / "initrd").write_bytes(build_initramfs(b"", modules, init))
    os.truncate(directory / "root", size)
    image = store.find_image(paths)
    if shared:
        assert image.shared_bytes() == size
        return
    with pytest.raises(SetupError, match="cannot be shared as memory") as caught:
        image.shared_bytes()
    assert "brokerctl image build default --force" in caught.value.hint


@pytest.mark.parametrize("driver", [True, False])
def test_an_image_of_an_older_version_has_no_drivers_for_an_arena(paths, driver):
    modules = {"virtio_pmem": b"", **({"dax_pmem": b""} if driver else {})}
    (put_image(paths) / "initrd").write_bytes(build_initramfs(b"", modules, b""))
    image = store.find_image(paths)
    if driver:
        image.arena_bytes()
        return
    with pytest.raises(SetupError, match="no drivers for a pixel arena") as caught:
        image.arena_bytes()
    assert "brokerctl image build default --force" in caught.value.hint


def test_the_init_that_we_ship_gives_the_settings_to_the_agent():
    init = (resources.files("broker") / "data/image/init").read_bytes()
    assert passes_settings(init)
    assert Path(LAUNCH_FILE).parent == Path("/usr/lib/vitrail")
    assert b"/root/usr/lib/vitrail/\n" in init


def test_holes_do_not_count(paths):
    directory = put_image(paths)
    with (directory / "root").open("wb") as file:
        os.ftruncate(file.fileno(), 1 << 30)
    assert store.find_image(paths).disk_bytes() < 1 << 20


def test_the_agent_is_the_shim_and_brings_the_commands_for_files():
    agent = guest_agent()
    names: dict[str, object] = {"__name__": "vitrail_guest", "__file__": "/nowhere"}
    exec(compile(agent, "agent", "exec"), names)
    assert names["files_tool"]() == files_tool()


def replace_image(paths, digest):
    """What a build does with a finished image."""
    work = paths.images / f".default.{digest[0]}"
    shutil.copytree(store.find_image(paths).directory, work)
    manifest = msgspec.structs.replace(
        store.find_image(paths).manifest, digest=digest * 64
    )
    (work / "manifest.json").write_bytes(installed.manifest_bytes(manifest))
    build.put_in_place(paths, "default", work)


def digest(paths):
    return store.find_image(paths).manifest.digest[0]


def test_rollback_uses_the_version_before_and_returns(paths):
    put_image(paths)
    with pytest.raises(SetupError, match="no earlier version"):
        installed.roll_back(paths, "default")
    replace_image(paths, "1")
    installed.roll_back(paths, "default")
    assert digest(paths) == "0"
    installed.roll_back(paths, "default")
    assert digest(paths) == "1"


def test_one_earlier_version_is_kept(paths):
    put_image(paths)
    for number in ("1", "2", "3"):
        replace_image(paths, number)
    assert digest(paths) == "3"
    assert installed.roll_back(paths, "default").manifest.digest[0] == "2"
    names = sorted(p.name for p in paths.images.iterdir())
    assert names == [".default.2", ".default.3", ".default.previous", "default"]


def test_a_removed_image_has_no_earlier_version(paths):
    put_image(paths)
    replace_image(paths, "1")
    installed.remove_image(paths, "default")
    assert list(paths.images.iterdir()) == []


def test_an_earlier_version_that_is_not_whole_is_not_used(paths):
    before = put_image(paths)
    replace_image(paths, "1")
    (before / "kernel").unlink()
    with pytest.raises(SetupError, match="no earlier version"):
        installed.roll_back(paths, "default")
    assert digest(paths) == "1"
