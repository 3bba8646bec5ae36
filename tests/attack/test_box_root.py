"""Attack on the root of another system for a box: by its links, and by who writes to it.

Invariant: nothing of this machine but the tree gets into the box, and no sandbox chooses
the programs of another one's box.
"""

from __future__ import annotations

import re
import subprocess
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker.cli.launchers import held
from broker.core import limits
from broker.core.errors import RefusedError
from broker.host.launchers.bubblewrap.answer import box_answer
from broker.host.launchers.bubblewrap.arguments import (
    Box,
    BoxDescriptors,
    bwrap_args,
)
from broker.host.launchers.bubblewrap.command import prepare
from broker.host.launchers.bubblewrap.other_root import checked_root, inside
from policy.records.model import Podman
from policy.tools.record_files import parse_record

FDS = BoxDescriptors(3, 4, 5, 6)
BOUNDED = {
    "Max open files": 700,
    "Max pending signals": limits.BOX_SIGNALS,
    "Max msgqueue size": limits.BOX_MESSAGE_BYTES,
    "Max locked memory": limits.SANDBOX_LOCKED_BYTES,
    "Max realtime priority": 0,
    "Max nice priority": 0,
}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    for name in ("usr/bin", "etc/ssl/certs", "var/lib/texmf"):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("secret")
    return root


def words_of(root):
    box = Box(("foot",), Path("/sockets"), root=checked_root(root, ()))
    return bwrap_args(box, FDS, 1000)


def sources(words):
    return [
        words[n + 1]
        for n, word in enumerate(words)
        if word in {"--ro-bind", "--ro-bind-try", "--bind", "--dev-bind"}
    ]


def test_a_box_has_the_programs_and_settings_of_its_root_alone(root):
    words = words_of(root)
    assert words[words.index("/usr") - 1] == f"{root}/usr"
    assert f"{root}/etc/ssl/certs" in sources(words)
    ours = [
        p for p in sources(words) if not p.startswith((str(root), "/sys", "/sockets"))
    ]
    # An empty file covers the names of the user's keys.
    assert set(ours) == {"/dev/null", "/etc/localtime"}
    assert words[words.index("/bin") - 2 : words.index("/bin")] == [
        "--symlink",
        "usr/bin",
    ]


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("etc/fonts", "{base}/secret"),
        ("etc/fonts", "../../secret"),
        ("etc/ssl/openssl.cnf", "/etc/shadow"),
        ("var/lib/aspell", "/home"),
        ("sbin2", "/"),
    ],
)
def test_a_link_of_the_tree_leads_to_no_file_of_this_machine(root, place, target):
    (root / place).symlink_to(target.format(base=root.parent))
    for source in sources(words_of(root)):
        assert "secret" not in source
        assert "shadow" not in source
        assert not source.startswith("/home")


def test_a_directory_of_the_tree_that_is_a_link_is_not_followed(root):
    (root / "etc").rename(root / "etc.old")
    (root / "etc").symlink_to("/etc")
    assert not [p for p in sources(words_of(root)) if p.startswith("/etc/s")]
    (root / "lib").symlink_to(root.parent / "secret")  # a link in the box, too
    assert f"{root.parent}/secret" not in sources(words_of(root))


@pytest.mark.parametrize("target", ["/usr", "../secret", "/nowhere", "usr"])
def test_a_root_without_a_usr_of_its_own_is_refused(root, target):
    (root / "usr/bin").rmdir()
    (root / "usr").rmdir()
    (root / "usr").symlink_to(target)
    with pytest.raises(RefusedError, match="no directory usr of its own"):
        checked_root(root, ())


def test_a_root_that_a_sandbox_can_write_to_is_refused(root, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(root)
    for place in (root, root.parent, root / "usr/local", link):
        for named in (root, link):
            with pytest.raises(RefusedError, match="a sandbox can write"):
                checked_root(named, [place])
    assert checked_root(link, [tmp_path / "other", tmp_path / "root2"]) == root
    with pytest.raises(RefusedError, match="No such file"):
        checked_root(tmp_path / "none", ())


def test_the_root_of_a_container_is_no_place_of_a_sandbox_either(
    root, monkeypatch, tmp_path
):
    launch = Podman(command=("true",), rootfs=root)
    record = SimpleNamespace(
        name="box", host=SimpleNamespace(launch=launch), where="box.toml:{}".format
    )
    monkeypatch.setattr(held, "local_paths", lambda: None)
    monkeypatch.setattr(held, "checked_binds", lambda *_: {})
    monkeypatch.setattr(held, "writable_places", lambda _: [tmp_path])

    async def begin(*_):
        raise AssertionError("it was begun")

    run = held.held(Podman, begin)
    with pytest.raises(RefusedError, match="a sandbox can write") as caught:
        run(record, None, quiet=True, as_json=False)
    assert caught.value.where == "box.toml:launch.rootfs"


def test_the_shell_of_another_system_need_not_set_the_limits(root):
    """It may not, and busybox has no prlimit(1)."""
    box = Box(("foot",), Path("/sockets"), open_files=700)
    with ExitStack() as ours:
        command = prepare(replace(box, root=root), ours)
        words = command.argv(Path("/sockets"))
        before = words[: words.index("bwrap")]
        show = subprocess.run(
            [*before, "cat", "/proc/self/limits"], check=True, capture_output=True
        )
        assert prepare(box, ours).argv(Path("/sockets"))[0] == "choom"
    found = {}
    for line in show.stdout.decode().splitlines()[1:]:
        name, soft, hard = re.split(r"  +", line)[:3]
        assert soft == hard or name not in BOUNDED
        found[name] = soft
    assert {name: int(found[name]) for name in BOUNDED} == BOUNDED


def test_programs_of_another_system_have_no_rights_to_drop(root):
    """Its setpriv(1) may not do what it is asked for."""
    box = Box(("foot",), Path("/sockets"))
    assert not box.owns_files
    assert replace(box, root=root).owns_files


def test_the_quick_start_takes_no_box_with_a_root():
    text = 'class = "disposable"\n[launch]\nkind = "bwrap"\nrootfs = "/srv/other"\n'
    record, problems = parse_record("other", Path("other.toml"), text.encode())
    assert not problems
    assert record.host.launch.rootfs == Path("/srv/other")
    assert box_answer(record, trees=False).sandbox_class is None


def test_without_a_root_a_path_is_this_machine_s():
    assert inside(None, "/etc/fonts") == "/etc/fonts"
