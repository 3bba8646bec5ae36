"""Attack: a sandbox leaves a link in a directory that it may write to.

Programs follow it with the person's rights: when the person opens, copies, edits or
shares that name, or starts a box whose record has it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker.cli.launchers import held as run_box
from broker.cli.quick import box as quick_box
from broker.cli.quick.made_record import leads_through_links, with_files
from broker.core.errors import RefusedError, UpstreamError
from broker.core.files.planted_links import named_path, refuse_links
from broker.core.paths import find_paths
from broker.helpers.mounts import bound_files
from broker.helpers.mounts.opened import open_folder
from broker.host.launchers.bubblewrap import process
from broker.host.launchers.bubblewrap.arguments import Box
from broker.ipc.control.api import OpenRequest
from broker.viewer.folders.desk import FolderDesk, SharedFolder
from broker.viewer.role import ViewerRole
from broker.viewer.transfer.moving import TransferParts
from broker.viewer.transfer.own import Own
from broker.viewer.transfer.person import PersonOpens
from policy.tools.record_files import parse_record
from tests.kit.boxes import start_held
from tests.kit.control import exchange
from tests.kit.needs import requires
from tests.kit.session import starter_of_orders
from tests.kit.shims import files_program

SECRET = "a private key"
needs_bwrap = requires("bwrap")


@pytest.fixture(name="home")
def _home(tmp_path):
    """A home with a secret, and a directory in it that a sandbox may write to."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id").write_text(SECRET)
    (tmp_path / ".netrc").write_text(SECRET)
    (tmp_path / "work/sub").mkdir(parents=True)
    (tmp_path / "work/sub/config").write_text("mine")
    (tmp_path / "work/real.pdf").write_text("a report")
    return tmp_path


def planted(home, target, name="work/report.pdf"):
    (home / name).unlink(missing_ok=True)
    (home / name).symlink_to(target)
    return home / name


TARGETS = ["{}/.ssh/id", "../.ssh/id", "sub/../../.ssh/id", "{}/work/../.ssh/id"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_link_out_of_a_sandboxs_directory_is_not_followed(home, target):
    path = planted(home, target.format(home))
    with pytest.raises(RefusedError, match="link that a sandbox may have created"):
        named_path(path, [home / "work"])


def test_a_link_by_way_of_another_is_not_followed(home):
    planted(home, "..", "work/up")
    path = planted(home, "up/.ssh/id")
    with pytest.raises(RefusedError, match="link that a sandbox may have created"):
        named_path(path, [home / "work"])
    with pytest.raises(RefusedError, match="link that a sandbox may have created"):
        named_path(home / "work/up/.ssh/id", [home / "work"])


def test_a_directory_that_is_named_by_a_link_of_the_persons(home):
    """The sandbox has the directory by another path than the person names."""
    (home / "mine").symlink_to("work")
    planted(home, "../.ssh/id")
    for path, place in (("mine/report.pdf", "work"), ("work/report.pdf", "mine")):
        with pytest.raises(RefusedError, match="link that a sandbox may have created"):
            named_path(home / path, [home / place])


def test_links_of_the_person_are_followed(home):
    (home / "mine").symlink_to("work")
    assert named_path(home / "mine/real.pdf", [home / "work"]) == home / "work/real.pdf"
    (home / "key").symlink_to(".ssh/id")
    assert named_path(home / "key", [home / "work"]) == home / ".ssh/id"


def test_a_link_that_stays_in_the_directory_is_followed(home):
    path = planted(home, "sub/../real.pdf")
    assert named_path(path, [home / "work"]) == home / "work/real.pdf"


def test_links_in_a_circle_end(home):
    path = planted(home, "report.pdf")
    with pytest.raises(RefusedError, match="too many levels of symbolic links"):
        named_path(path, [])


def test_a_path_with_nul_is_refused(home):
    with pytest.raises(RefusedError, match="NUL"):
        named_path(home / "a\0b", [])


def test_a_link_made_after_the_look_is_not_sent_through(home):
    """The tool gets paths without links: one that is there now is an attack."""
    for path in (
        planted(home, "../.ssh/id"),
        planted(home, "../.ssh", "work/d") / "id",
    ):
        for verb in (["send", str(path)], ["edit", str(path), "work"]):
            found = subprocess.run(
                [sys.executable, "-I", files_program(), *verb],
                input=b"",
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert SECRET.encode() not in found.stdout, verb


def test_a_file_beside_a_link_made_after_the_look_is_not_edited(home):
    """It is in the directory that the process that edits has."""
    path = str(planted(home, "real.pdf"))
    found = subprocess.run(
        [sys.executable, "-I", files_program(), "edit", path, "work"],
        input=b"",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"a report" not in found.stdout


# -- open, cp, open --edit -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["path", "edit", "copy"])
async def test_the_person_sends_no_file_that_a_sandbox_chose(home, how):
    path = str(planted(home, "../.ssh/id"))
    request = {
        "path": OpenRequest(path=path, sandbox="work"),
        "edit": OpenRequest(path=path, sandbox="work", edit=True),
        "copy": OpenRequest(copy=[f"{home}/work/real.pdf", path], sandbox="work"),
    }[how]
    # Refused before anything else is looked at.
    with starter_of_orders() as session:
        own, places = Own(session), lambda: [home / "work"]
        person = PersonOpens(TransferParts(None, None, None, own, places))
        called = replace(exchange(None), warrant=session.call("Open", request))
        with pytest.raises(RefusedError, match="link that a sandbox may have created"):
            await person.open(called, request)


def test_the_person_shares_no_folder_that_a_sandbox_chose(home):
    (home / "Documents").mkdir()
    path = planted(home, "../Documents", "work/pictures")
    with pytest.raises(RefusedError, match="link that a sandbox may have created"):
        open_folder(str(path), home, (), [home / "work"])
    open_folder(str(home / "Documents"), home, (), [home / "work"]).close()


def test_shared_folders_and_records_count(home):
    """A folder that is shared for now, and those of records that do not run."""

    def shared(name, *, write):
        return SharedFolder(None, home / name, write, mounted=object())

    desk = FolderDesk.__new__(FolderDesk)
    desk._shared = [shared("now", write=True), shared("read", write=False)]
    text = f'class = "persistent"\n[launch]\nkind = "bwrap"\n[folders]\nread_write = ["{home}/recorded"]\n'
    record, _ = parse_record("a", home / "a.toml", text.encode())
    role = SimpleNamespace(
        authority=SimpleNamespace(records=SimpleNamespace(records={"a": record})),
        _paths=SimpleNamespace(homes=home / "homes"),
        folders=desk,
    )
    names = {place.name for place in ViewerRole.writable_places(role)}
    assert names == {"homes", "recorded", "now"}


# -- boxes -----------------------------------------------------------------------------


def test_a_box_gets_no_file_by_a_planted_link(home):
    planted(home, "../.ssh/id")
    argv = ("zathura", "work/report.pdf")
    assert leads_through_links(argv, home)
    with pytest.raises(RefusedError, match="link that a sandbox may have created"):
        with_files(argv, home, [home / "work"])
    assert not leads_through_links(("zathura", "work/real.pdf", "--", "no"), home)


def test_a_box_in_haste_leaves_links_to_the_one_that_looks(home, monkeypatch):
    planted(home, "../.ssh/id")
    monkeypatch.chdir(home)

    def refuse():
        raise AssertionError("it has begun to start the box")

    monkeypatch.setattr(quick_box, "_paths", refuse)
    assert quick_box.run(("zathura", "work/report.pdf")) is None
    with pytest.raises(AssertionError):
        quick_box.run(("zathura", "work/real.pdf"))


@pytest.mark.parametrize("key", ["read_only", "read_write"])
def test_the_box_of_a_record_in_haste_binds_no_link(home, monkeypatch, key):
    """``launchers.held`` looks whose the link is."""
    planted(home, "../.ssh/id")
    answer = {
        "sandbox_class": "disposable",
        "command": ["true"],
        "read_only": [],
        "read_write": [],
        "open_files": 700,
        "network": "none",
    }

    def launched(*_):
        raise AssertionError("it has begun to start the box")

    monkeypatch.setattr(quick_box, "_paths", find_paths)
    calls = SimpleNamespace(call=lambda *_: answer)
    monkeypatch.setattr(quick_box, "open_calls", lambda *_: calls)
    monkeypatch.setattr(quick_box, "leased", launched)
    answer[key] = [str(home / "work/report.pdf")]
    assert quick_box.run_record("work", ()) is None
    answer[key] = [str(home / "work/real.pdf")]
    with pytest.raises(AssertionError):
        quick_box.run_record("work", ())


def record(home, monkeypatch, launch):
    """A record of a box, where ``brokerctl run`` finds it."""
    config = home / "config/vitrail/sandboxes.d"
    config.mkdir(parents=True)
    text = f'class = "disposable"\n[launch]\nkind = "bwrap"\n{launch}'
    (config / "work.toml").write_text(text)
    for name in ("CONFIG", "STATE", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
    # The run's own: the test's directory is too long for sockets.
    assert "XDG_RUNTIME_DIR" in os.environ


def binds(home):
    read_only, read_write = [f"{home}/work/sub/config"], [f"{home}/work"]
    return (
        f"bind_read_only = {json.dumps(read_only)}\n"
        f"bind_read_write = {json.dumps(read_write)}\n"
    )


def test_a_bound_path_leads_through_no_link_of_a_sandbox(home, monkeypatch):
    record(home, monkeypatch, binds(home))
    paths = find_paths()
    assert home / "work" in run_box.writable_places(paths)
    path = home / "work/sub/config"
    run_box.refuse_planted_links(paths, [path])
    os.rename(home / "work/sub", home / "work/was")
    (home / "work/sub").mkdir()
    planted(home, "../../.netrc", "work/sub/config")
    with pytest.raises(RefusedError, match="link that a sandbox may have created"):
        run_box.refuse_planted_links(paths, [path])
    with pytest.raises(RefusedError, match="link that a sandbox may have created"):
        refuse_links(path, [home / "work"])


async def output(box):
    """Run a box to its end and return its output."""
    held = await start_held(box)
    try:
        held.release()
        await held.child.wait()
        return held.child.popen.stdout.read().decode()
    finally:
        await held.end()
        held.child.popen.stdout.close()
        held.child.popen.stderr.close()


@needs_bwrap
async def test_a_read_only_file_in_a_writable_directory_is_read_only(home):
    (home / "sockets").mkdir()
    kept = home / "work/sub/config"
    script = f"echo bad > {kept}; rm -f {kept}; echo new > {home}/work/new; cat {kept}"
    box = Box(("sh", "-c", script), home / "sockets", (kept,), (home / "work",))
    assert await output(box) == "mine"
    assert kept.read_text() == "mine"
    assert (home / "work/new").read_text() == "new\n"


def while_it_starts(monkeypatch, step, change):
    """Have another sandbox make a change at the moment before a step of a start."""
    module, _, name = step.rpartition(".")
    place = {"process": process, "BoundFiles": bound_files.BoundFiles}[module]
    taken = getattr(place, name)

    def changed(*words, **more):
        change()
        return taken(*words, **more)

    monkeypatch.setattr(place, name, changed)


@needs_bwrap
@pytest.mark.parametrize("whole", [False, True], ids=["alone", "with-its-directory"])
async def test_a_link_that_is_made_while_a_box_starts_shows_nothing(
    home, monkeypatch, whole
):
    """bubblewrap looks up the path itself, after it was looked at."""
    (home / "sockets").mkdir()
    path = home / "work/sub"

    def swap():
        path.rename(home / "work/was")
        path.symlink_to("../.ssh")

    def swap_back():
        path.unlink()
        (home / "work/was").rename(path)

    files = (path, home / "work") if whole else (path,)
    script = f"cat {path}/id {home}/work/*/id 2>/dev/null; :"
    box = Box(("sh", "-c", script), home / "sockets", files)
    while_it_starts(monkeypatch, "process.start_process", swap)
    while_it_starts(monkeypatch, "BoundFiles.check", swap_back)
    with pytest.raises((RefusedError, UpstreamError)):
        assert SECRET not in await output(box)


@needs_bwrap
async def test_a_wrong_file_is_not_moved_with_its_mount_out_of_sight(home, monkeypatch):
    """The right one is then at its path, and the wrong one beside it."""
    (home / "sockets").mkdir()
    path = home / "work/file"
    path.write_text("harmless")
    os.link(path, home / "work/same")

    def swap():
        path.rename(home / "work/was")
        os.link(home / ".netrc", path)

    def move():
        path.rename(home / "work/moved")
        (home / "work/same").rename(path)

    box = Box(
        ("sh", "-c", f"cat {home}/work/moved"),
        home / "sockets",
        (path, home / "work"),
    )
    while_it_starts(monkeypatch, "process.start_process", swap)
    while_it_starts(monkeypatch, "BoundFiles.check", move)
    with pytest.raises(RefusedError, match="another sandbox may have changed"):
        assert SECRET not in await output(box)


@needs_bwrap
async def test_links_of_the_person_and_of_the_system_are_bound(home):
    (home / "sockets").mkdir()
    (home / "mine").symlink_to("work")
    named = home / "mine/sub"
    system = Path("/lib/os-release") if Path("/lib/os-release").exists() else None
    files = (named,) if system is None else (named, system)
    box = Box(
        ("cat", str(named / "config")),
        home / "sockets",
        files,
        without_links={named: home / "work/sub"}
        | ({} if system is None else {system: system.resolve()}),
    )
    assert await output(box) == "mine"
