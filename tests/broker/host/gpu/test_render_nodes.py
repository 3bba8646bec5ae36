"""The words that give a box this machine's render nodes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from broker.host.gpu.render_nodes import box_words, render_nodes


@pytest.fixture
def machine(tmp_path: Path):
    """Two nodes that are /dev/null and /dev/zero, of one PCI device and of a virtio one."""
    dri, numbers = tmp_path / "dri", tmp_path / "char"
    dri.mkdir()
    numbers.mkdir()
    (dri / "card0").touch()
    for name, real, device in (
        ("renderD128", "null", "pci0/0000:00:02.0"),
        ("renderD129", "zero", "pci0/0000:00:03.0/virtio1"),
    ):
        (dri / name).symlink_to(f"/dev/{real}")
        number = os.stat(f"/dev/{real}").st_rdev
        drm = tmp_path / "devices" / device / "drm" / name
        drm.mkdir(parents=True)
        (drm / "device").symlink_to("../..")
        link = numbers / f"{os.major(number)}:{os.minor(number)}"
        link.symlink_to(Path("..", drm.relative_to(tmp_path)))
    screen = tmp_path / "devices/pci0/0000:00:02.0/drm/card0/card0-DP-1"
    screen.mkdir(parents=True)
    (screen / "edid").write_text("a monitor's serial number")
    return tmp_path


def test_a_box_gets_nodes_and_what_tells_their_driver(machine: Path) -> None:
    assert [node.name for node in render_nodes(machine / "dri")] == [
        "renderD128",
        "renderD129",
    ]
    words = box_words(machine / "dri", machine / "char")
    at = words.index("--tmpfs")
    card = str(machine / "devices/pci0/0000:00:02.0/drm/card0")
    assert words[at : at + 4] == ("--tmpfs", card, "--remount-ro", card)
    words = words[:at] + words[at + 4 :]
    three = list(zip(words[::3], words[1::3], words[2::3], strict=True))
    assert [(how, Path(what).name) for how, what, _ in three] == [
        ("--dev-bind", "renderD128"),
        ("--dev-bind", "renderD129"),
        ("--ro-bind-try", "0000:00:02.0"),
        ("--ro-bind-try", "0000:00:03.0"),
        ("--symlink", "renderD128"),
        ("--symlink", "renderD129"),
    ]
    for how, what, where in three[:4]:
        assert what == where, how
    for _, what, where in three[4:]:
        assert what.startswith("../devices/")
        assert Path(where).parent == machine / "char"


def test_a_box_reads_nothing_of_the_screens(machine: Path) -> None:
    """Attack: the monitor's serial number, and whether it is on."""
    tree = ["--ro-bind", "/", "/", "--tmpfs", "/tmp"]
    ask = ["find", str(machine / "devices"), "-name", "card0", "-o", "-name", "edid"]
    words = box_words(machine / "dri", machine / "char")
    told = subprocess.run(
        ["bwrap", *tree, *_without_nodes(words), "--", *ask],
        check=True,
        capture_output=True,
        text=True,
    )
    assert [Path(line).name for line in told.stdout.splitlines()] == ["card0"]


def _without_nodes(words: tuple[str, ...]) -> list[str]:
    """The words for /sys: this machine may have no node to bind."""
    return list(words[words.index("--ro-bind-try") : words.index("--symlink")])


def test_a_machine_without_a_gpu_gives_nothing(tmp_path: Path) -> None:
    assert box_words(tmp_path / "none") == ()
