"""``brokerctl doctor --report`` measures windows, and its report has no names."""

from __future__ import annotations

import json
import os
import re

import pytest
import trio

from broker.cli.doctor import report
from broker.core.decoding import UNREADABLE
from docs import print_hardware
from tests.kit.brokerctl import brokerctl
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import windows
from tests.kit.wayland.input import Keyboard
from tests.kit.world import world

PLANTED = "plantedname"
SECONDS = ("--seconds", "2")
TITLE = "please press a key"


def texts(value) -> list[str]:
    """Return all texts of a report, keys too."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [str(value)]


def test_description_of_a_machine_has_no_planted_name(tmp_path):
    """Names of a user or machine may be in each file and variable that is read."""
    files = {
        "proc/cpuinfo": f"model name\t: Best CPU of {PLANTED} 3.0\nflags\t: fpu hypervisor\n",
        "etc/os-release": f'ID={PLANTED}\nVERSION_ID="7.{PLANTED}"\nNAME={PLANTED}\n',
        "proc/sys/kernel/osrelease": f"6.18.3-{PLANTED}\n",
        "proc/meminfo": "MemTotal: 8388608 kB\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    device = tmp_path / "sys/class/drm/renderD128/device"
    device.mkdir(parents=True)
    (device / "driver").symlink_to(f"/sys/bus/pci/drivers/{PLANTED}")
    env = {"HOME": f"/home/{PLANTED}", "USER": PLANTED, "XDG_CURRENT_DESKTOP": PLANTED}
    machine = report.describe_machine(env, tmp_path)
    assert PLANTED not in json.dumps(machine)
    assert machine["processor"] == "not given"
    assert machine["kernel"] == "6.18"
    assert machine["gpu"] == ["other"]
    assert (machine["virtual"], machine["memory_gib"]) == (True, 8.0)


def test_processor_keeps_its_model_without_names():
    model = "AMD Ryzen 7 5800X (8-Core) @ 3.8|GHz"
    assert report.without_names(model, ["alice", "box"]) == model.replace("|", "")
    assert report.without_names(model, ["Ryzen"]) == "not given"


def test_rows_of_a_window_are_numbers_and_known_reasons():
    """The window runs in a sandbox, and its output is hostile."""
    hostile = {
        "film": {"frames_per_second": 59.9, "longest_pause_ms": 20, "path": PLANTED},
        "scroll": {"missing": PLANTED},
        "key": {"median_ms": 12, PLANTED: 1},
        "sound": {"missing": "no sound server can be reached"},
        "by": PLANTED,
        "gpu_buffers": False,
        PLANTED: 1,
    }
    rows = report.take_rows(json.dumps(hostile).encode(), 0.0)
    assert PLANTED not in json.dumps(rows)
    assert rows["film"] == {"frames_per_second": 59.9, "longest_pause_ms": 20.0}
    assert rows["scroll"] == {"missing": "the window was not shown, or not in time"}
    assert rows["key"] == {"median_ms": 12}
    assert rows["sound"] == {"missing": "no sound server can be reached"}


@pytest.mark.parametrize(
    "output",
    [b"", b"\xff", b"[" * 5000, b"[]", b'{"film": {"keys": "x"}}', b'{"film": 1}'],
)
def test_output_that_is_not_a_windows_is_unreadable(output):
    with pytest.raises(UNREADABLE):
        report.take_rows(output, 0.0)


async def test_report_without_a_compositor_says_why_rows_are_missing(env, tmp_path):
    path = tmp_path / "report.json"
    answer = await brokerctl("doctor", "--report", str(path), "--yes", env=env)
    assert answer.code == 0, answer.err
    rows = json.loads(path.read_text())["measurements"]
    for name in ("directly", "box", "memory"):
        assert rows[name] == {"missing": "no compositor is running"}
    assert rows["machine"] == {"missing": "no record was named with --machine"}
    assert json.loads(answer.out) == json.loads(path.read_text())


async def test_report_without_a_terminal_needs_yes(env, tmp_path):
    path = tmp_path / "report.json"
    answer = await brokerctl("doctor", "--report", str(path), env=env)
    assert (answer.code, answer.out) == (1, "")
    assert "pass --yes" in answer.err
    assert not path.exists()


@PID_NAMESPACES
async def test_report_measures_a_window_directly_and_in_a_box(tmp_path):
    async with world(image=False) as w:
        path = w.base / "report.json"

        async def press_keys() -> None:
            while True:
                for node in windows(await w.comp.tree()):
                    if TITLE in (node.get("name") or "") and node.get("focused"):
                        keyboard.press(30)
                await trio.sleep(0.1)

        with Keyboard(w.comp.display) as keyboard:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(press_keys)
                argv = ("doctor", "--report", str(path), "--yes", *SECONDS)
                answer = await brokerctl(*argv, env=w.environ, deadline=120)
                nursery.cancel_scope.cancel()
        assert answer.code == 0, answer.err
        written = json.loads(path.read_text())
    rows = written["measurements"]
    for name in ("directly", "box"):
        assert rows[name]["start"]["seconds"] > 0, rows
        assert rows[name]["film"]["frames_per_second"] > 1, rows
        assert rows[name]["scroll"]["frames_per_second"] > 1, rows
        assert rows[name]["key"]["keys"] >= 1, rows
    assert rows["memory"]["broker_mib"] > 0
    names = {os.environ["USER"], os.uname().nodename, w.base.name, "/tmp"}
    parts = {part for text in texts(written) for part in re.findall(r"[\w/.-]+", text)}
    assert not names & parts
    assert "frames/s" in print_hardware.page(print_hardware.PAGE.read_text(), [written])


def test_page_is_printed_from_the_reports():
    """Mend with: python -m docs.print_hardware."""
    text = print_hardware.PAGE.read_text()
    assert print_hardware.page(text, print_hardware.reports()) == text
