"""``devices.toml``: what may leave this machine at all."""

from __future__ import annotations

import pytest

from broker.core.errors import SetupError
from broker.root.records import load_records
from tests.kit.usb.samples import KEYBOARD, STICK, device

_GOOD = """
strict = true
[[device]]
name = "sticks"
sandboxes = ["work", "web"]
with-interface = { op = "match-all", values = ["08:*:*"] }
[[device]]
sandboxes = ["*"]
id = "1050:*"
"""


def load(tmp_path, text):
    path = tmp_path / "devices.toml"
    path.write_text(text)
    return load_records(path)


def test_records_bound_what_may_leave(tmp_path):
    found = load(tmp_path, _GOOD)
    assert found.strict
    assert found.sandboxes(device(STICK)) == ["web", "work"]
    assert found.allow(device(STICK), "work")
    assert not found.allow(device(STICK), "banking")
    assert found.sandboxes(device((0x0B, 0, 0), vendor=0x1050)) == ["*"]


@pytest.mark.parametrize("kind", [KEYBOARD, (3, 0, 0), (9, 0, 0)])
def test_unnamed_keyboards_and_hubs_never_leave(tmp_path, kind):
    found = load(tmp_path, _GOOD)
    assert found.sandboxes(device(kind, vendor=0x1050)) == []


def test_nothing_leaves_without_a_file(tmp_path):
    found = load_records(tmp_path / "none.toml")
    assert found.sandboxes(device(STICK)) == []
    assert not found.strict


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("device = 1", "device: not a list"),
        ("stict = true", "stict: unknown key"),
        ("strict = 1", "strict: must be true or false"),
        ("[[device]]\nid = '1050:*'", "device[0].sandboxes"),
        ("[[device]]\nsandboxes = ['*']", "no condition"),
        ("[[device]]\nsandboxes = ['../x']\nid='1050:*'", "device[0].sandboxes"),
        ("[[device]]\nsandboxes = ['*']\nid='1050'", "device[0].id"),
        ("[[device]]\nsandboxes = ['*']\nids='1050:*'", "device[0].ids"),
        ("[[device]", "line 1"),
    ],
)
def test_mistakes_are_errors_with_their_place(tmp_path, text, words):
    with pytest.raises(SetupError) as caught:
        load(tmp_path, text)
    assert words in str(caught.value)
    assert "devices.toml" in str(caught.value)


def test_huge_files_are_refused(tmp_path):
    with pytest.raises(SetupError, match="more than"):
        load(tmp_path, "#" * 70000)


@pytest.mark.parametrize(
    "text",
    [
        'sandbox = "work"',
        'sandbox = "work"\nqmp = "/a"\ncrosvm = "/b"',
        'sandbox = "work"\nlibvirt = "--connect"',
        'sandbox = "work"\nlibvirt = "a b"',
        'sandbox = "work"\nqmp = "relative"',
        'sandbox = "work"\nqmp = "/a"\nuri = "qemu:///system"',
        'sandbox = "work"\nlibvirt = "win"\nuri = "-c"',
        'sandbox = "../x"\nqmp = "/a"',
        'qmp = "/a"',
        'sandbox = "work"\nqmp = 3',
    ],
)
def test_machines_with_mistakes_allow_nothing(tmp_path, text):
    with pytest.raises(SetupError):
        load(tmp_path, f"[[machine]]\n{text}\n")


def test_machines_of_others_are_named(tmp_path):
    found = load(tmp_path, '[[machine]]\nsandbox = "win"\nlibvirt = "win11"\n')
    assert found.machine("win").uri == "qemu:///system"
    assert found.machine("work") is None
