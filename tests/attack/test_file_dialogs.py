"""Attack: a sandbox makes more of the desktop's file dialogs than one choice."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from jeepney import HeaderFields

from broker.authority.permit import Permit
from broker.core.errors import PeerError, RefusedError, UpstreamError
from broker.core.lease import Opening
from broker.core.services import CALL
from broker.core.transfer.file_names import suggested_name
from broker.helpers.process.spawn import DEVNULL, PIPE, spawn
from broker.ipc.guest.file_requests import ChooseFiles, FileFilter, decode_ask
from broker.ipc.session.file_orders import FoundFiles
from broker.jail.worker.transfer import _checked as _checked_ask
from broker.net.desktop_bus import PortalRequest
from broker.session.dialogs import (
    FileChoice,
    _filter_row,
    find_downloads,
    paths_in,
)
from broker.session.transfer.chosen_files import (
    checked,
    checked_names,
    chosen_state,
    free_place,
    require_folder,
)
from broker.viewer.dialogs import FileDialogs
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.transfer.moving import TransferParts
from broker.viewer.transfer.own import UserFiles
from shims.files.bus_messages import MEMBER, SENDER, BusMessage
from shims.files.bus_service import CallError
from shims.files.dialogs import (
    GLOB,
    FileDialog,
    PortalDialogs,
    globs_of,
    request_of,
)
from shims.files.edited import Saved
from shims.files.protocol import TransferError, frame
from tests.integration.test_file_dialogs import open_dialogs, pick
from tests.kit.desktop_portal import desktop_portal
from tests.kit.eventually import eventually
from tests.kit.guest_notifications import notifying
from tests.kit.rulebook import WORK
from tests.kit.wayland.compositor import wait_window
from tests.kit.wayland.input import Keyboard

ESCAPE = 1
RULES = """\
vitrail.FileDialog * work @adminvm allow
vitrail.FileDialog +save personal @adminvm deny
vitrail.FileDialog * personal @adminvm allow
vitrail.FileCopy * @adminvm personal deny
"""
NEEDED = ("waypipe", "mako", "dbus-daemon", "gdbus")
REAL = pytest.mark.skipif(
    not all(map(shutil.which, NEEDED)), reason=f"{', '.join(NEEDED)} are needed"
)


# -- names, paths and values -----------------------------------------------------------


@pytest.mark.parametrize(
    ("untrusted_name", "shown"),
    [
        ("report.pdf", "report.pdf"),
        (".bashrc", "bashrc"),
        ("..", ""),
        (" .-.config", "config"),
        ("a\nb\x1b[31m.txt", "a_b_[31m.txt"),
        ("a\u202egpj.exe", "a_gpj.exe"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("-rf", "rf"),
        ("con", ""),
        ("\ud800", "?"),
        ("x" * 300, "x" * 255),
    ],
)
def test_a_suggested_name_is_plain_and_not_hidden(untrusted_name, shown):
    assert suggested_name(untrusted_name) == shown
    assert _checked_ask(ChooseFiles("save", name=untrusted_name)).name == shown


@pytest.mark.parametrize(
    "name", [".bashrc", ".config/autostart/x", "a/.git/hooks/pre-commit", "x\ny", "-x"]
)
def test_nothing_is_saved_where_it_would_be_run_or_is_not_seen(tmp_path, name):
    with pytest.raises(RefusedError):
        checked(tmp_path / name, (), save=True)


def test_a_sandboxs_link_leads_a_choice_to_no_other_file(tmp_path):
    shared, secret = tmp_path / "shared", tmp_path / "secret"
    shared.mkdir()
    secret.mkdir()
    (secret / "key").write_text("key")
    (shared / "report.pdf").symlink_to(secret / "key")
    (shared / "folder").symlink_to(secret)
    for path, save in (("report.pdf", False), ("folder/new", True)):
        with pytest.raises(RefusedError, match="cannot follow"):
            checked(shared / path, (shared,), save=save)
    # A file that is saved under the name of a link replaces the link.
    found = checked(shared / "report.pdf", (shared,), save=True)
    assert found == shared / "report.pdf"


@pytest.mark.parametrize(
    "uri",
    ["http://x/y", "file://host/etc/passwd", "file:relative", "x", "file:///a%00b"],
)
def test_an_answer_that_is_not_a_file_of_the_desktop_is_refused(uri):
    def take():
        return [
            checked(p, (), save=False) for p in paths_in((0, {"uris": ("as", [uri])}))
        ]

    with pytest.raises((UpstreamError, RefusedError)):
        take()


@pytest.mark.parametrize(
    "body",
    [(), (0,), (0, {}), (0, {"uris": ("s", "x")}), (7, {}), (0, {"uris": ("as", [])})],
)
def test_answers_of_another_form_choose_nothing(body):
    with pytest.raises(UpstreamError):
        paths_in(body)


@pytest.mark.parametrize("code", [1, 2])
def test_a_dismissed_dialog_chooses_nothing(code):
    assert paths_in((code, {"uris": ("as", ["file:///etc/passwd"])})) == []


def test_several_files_have_names_that_differ():
    ask = ChooseFiles("save", names=("a/b", "c"))
    assert _checked_ask(ask).names == ("a_b", "c")
    for names in (("a", "a"), ("a/b", "a_b"), ("a", "..")):
        with pytest.raises(PeerError, match="equal names"):
            _checked_ask(ChooseFiles("save", names=names))


@pytest.mark.parametrize("kind", ["open", "folder"])
def test_a_dialog_that_copies_in_does_not_say_that_it_saves(kind):
    """Its title came of the names, and all else of the kind: a tree was copied in."""
    with pytest.raises(PeerError, match="only allowed for saving"):
        _checked_ask(ChooseFiles(kind, names=("report.pdf",)))
    # Of a worker that was taken over: it is looked at before the dialog.
    with pytest.raises(PeerError, match="only allowed for saving"):
        checked_names(ChooseFiles(kind, names=("report.pdf",)))


@pytest.mark.parametrize("names", [("../x/a", "../x/b"), ("a", "a"), (".profile",)])
def test_a_worker_that_was_taken_over_saves_under_plain_names(names):
    with pytest.raises(PeerError):
        checked_names(ChooseFiles("save", names=names))
    assert checked_names(ChooseFiles("save", names=("a", "b"))) == ("a", "b")


def test_several_files_are_saved_in_one_folder(tmp_path):
    one, two, other = tmp_path / "a", tmp_path / "b", tmp_path / "c/b"
    require_folder([one, two], ("a", "b"))
    for paths in ([one], [one, one], [one, other], [one, two, tmp_path / "c"]):
        with pytest.raises(UpstreamError, match="one folder"):
            require_folder(paths, ("a", "b"))


def test_several_files_replace_none_of_the_folder(tmp_path):
    """The dialog asks about a folder and shows no names."""
    (tmp_path / "thesis.odt").write_text("mine")
    (tmp_path / "thesis (2).odt").symlink_to("nowhere")
    assert free_place(tmp_path / "thesis.odt") == tmp_path / "thesis (3).odt"
    assert free_place(tmp_path / "new") == tmp_path / "new"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/a.txt", "you cannot save in the folder /$"),
        ("/proc/a.txt", "you cannot save in the folder /proc$"),
        ("TOP/closed/a.txt", "you cannot save in the folder .*closed$"),
    ],
)
def test_place_that_cannot_be_saved_to_is_refused_at_the_choice(
    tmp_path, path, message
):
    """Later it would be too late: the program believes that it has saved."""
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(RefusedError, match=message) as caught:
        checked(Path(path.replace("TOP", str(tmp_path))), [], save=True)
    assert caught.value.hint.startswith("choose another")
    assert checked(tmp_path / "new.txt", [], save=True) == tmp_path / "new.txt"


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ('XDG_DOWNLOAD_DIR="$HOME/Hämtningar"', "home/Hämtningar"),
        ('XDG_DOWNLOAD_DIR="/absent"', "home"),
        ('XDG_DOWNLOAD_DIR="$HOME/"', "home"),
        ('#XDG_DOWNLOAD_DIR="$HOME/Hämtningar"', "home/Downloads"),
        ("\udcff", "home/Downloads"),
        (None, "home/Downloads"),
    ],
)
def test_dialog_to_save_starts_in_downloads(tmp_path, text, folder):
    for name in ("Hämtningar", "Downloads"):
        (tmp_path / "home" / name).mkdir(parents=True)
    if text is not None:
        data = text.encode(errors="surrogateescape")
        (tmp_path / "user-dirs.dirs").write_bytes(data)
    home = str(tmp_path / "home")
    environ = {"HOME": home, "XDG_CONFIG_HOME": str(tmp_path)}
    assert find_downloads(environ) == tmp_path / folder


def test_only_the_portal_answers_and_only_for_its_request():
    made, other = PortalRequest(":1.2", ":1.7"), PortalRequest(":1.2", ":1.7")
    rule = made.response
    assert rule.header_fields["sender"] == ":1.7"
    assert rule.header_fields["path"] == made.close.header.fields[HeaderFields.path]
    assert "/request/1_2/" in rule.header_fields["path"]
    assert rule.header_fields["path"] != other.response.header_fields["path"]


@pytest.mark.parametrize(
    "ask",
    [
        '{"type":"choose","kind":"open","filters":[{"name":"x","globs":["a/b"]}]}',
        '{"type":"choose","kind":"open","filters":[{"name":"x","globs":["a\\u0000"]}]}',
        '{"type":"choose","kind":"open","filters":[{"name":"x","types":["image"]}]}',
    ],
)
def test_requests_of_another_form_are_not_decoded(ask):
    with pytest.raises(PeerError):
        decode_ask(ask.encode())


def test_the_name_of_a_filter_is_one_line():
    row = _filter_row(FileFilter("Pictures\n\u202ework: allow", ("*",)))
    assert row == ("Pictures\\x0a\\u202ework: allow", [(0, "*")])
    assert FileChoice("title", ChooseFiles("open")).ask.filters == ()


async def test_a_sandbox_learns_nothing_of_the_desktop_by_a_failure():
    async def fails(*_):
        await trio.lowlevel.checkpoint()
        raise UpstreamError("/home/user/secret is not there")

    shown, lease = [], WORK
    dialogs = _dialogs(fails, lambda *words, sandbox: shown.append((*words, sandbox)))
    opening, guest = Opening(lease, CALL, 1, "vsock:3"), SimpleNamespace(lease=lease)
    for ask in (ChooseFiles("open"), ChooseFiles("save")):
        with pytest.raises(RefusedError) as caught:
            await dialogs.serve(GuestConnection(guest, opening), ask)
        assert "secret" not in str(caught.value)
    assert ["secret" in text for _, text, _ in shown] == [True, True]


async def test_rules_that_changed_while_the_user_chose_hold():
    answer = SimpleNamespace(verdict="allow", rule=None, where="30-mine.policy:2")

    async def chosen(*_):
        await trio.lowlevel.checkpoint()
        answer.verdict, answer.rule = "deny", object()
        return UserFiles(FoundFiles(1, ("letter.txt",)), b"")

    dialogs = _dialogs(chosen, lambda *_, sandbox: None, answer)
    opening, guest = Opening(WORK, CALL, 1, "vsock:3"), SimpleNamespace(lease=WORK)
    with pytest.raises(RefusedError, match="denies copying files into"):
        await dialogs.serve(GuestConnection(guest, opening), ChooseFiles("open"))


@asynccontextmanager
async def _permits(request, **_more):
    await trio.lowlevel.checkpoint()
    yield Permit(request, "dom0", "work.policy:1", None, False, None, 0.0, None)


def _dialogs(show, notify, answer=None):
    answer = answer or SimpleNamespace(verdict="deny", rule=None)

    async def preview(requests):
        await trio.lowlevel.checkpoint()
        return [answer for _ in requests]

    decider = SimpleNamespace(permit=_permits, preview=preview, notify=notify)
    own = SimpleNamespace(choose=show)
    return FileDialogs(TransferParts(decider, None, None, own, tuple, None))


# -- what is kept at the desktop -----------------------------------------------------------


def _entry(content):
    head = {"type": "file", "path": ["x"], "size": len(content)}
    return io.BytesIO(frame(head) + content + frame({"type": "end"}))


def test_a_save_does_not_replace_what_was_changed_here(tmp_path):
    file = tmp_path / "report.txt"
    Saved(str(file), chosen_state(file), 0).replace(_entry(b"first"), "work")
    digest = hashlib.sha256(b"first").hexdigest()
    saved = Saved(str(file), digest, 0)
    saved.replace(_entry(b"second"), "work")
    assert (file.read_text(), saved.kept) == (
        "second",
        hashlib.sha256(b"second").digest(),
    )
    with pytest.raises(TransferError, match="changed here"):
        Saved(str(file), digest, 0).replace(_entry(b"third"), "work")
    assert file.read_text() == "second"
    assert [one.name for one in tmp_path.iterdir()] == ["report.txt"]


def test_a_late_first_save_replaces_only_what_was_there_when_it_was_chosen(tmp_path):
    """The sandbox keeps the dialog's token for hours, and the user writes the file."""
    for before in (None, "old"):
        file = tmp_path / f"{before}.txt"
        if before is not None:
            file.write_text(before)
        chosen = chosen_state(file)
        file.write_text("the user's own")
        with pytest.raises(TransferError, match="changed here"):
            Saved(str(file), chosen, 0).replace(_entry(b"evil"), "work")
        assert file.read_text() == "the user's own"
        Saved(str(file), chosen_state(file), 0).replace(_entry(b"new"), "work")
        assert file.read_text() == "new"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["None.txt", "old.txt"]


def test_what_is_saved_leaves_room(tmp_path):
    file = tmp_path / "report.txt"
    with pytest.raises(TransferError, match="no disk space for"):
        Saved(str(file), "-", 1 << 60).replace(_entry(b"x"), "work")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pattern", "good"),
    [
        *((one, True) for one in ("*", "*.pdf", "*.tar.gz", "Makefile")),
        *((one, True) for one in ("*_test.c++", "*" + "a" * 31)),
        *((one, False) for one in ("**", "*.*", "*a*", "a*", "a*b", "*.[pP]", "?")),
        *((one, False) for one in ("*" + "a" * 32, "", "*.pdf\\n", "*[+-z]*[+-z]*")),
    ],
)
def test_a_pattern_has_one_star_at_its_beginning(pattern, good):
    """64 of three stars: the desktop's portal answered no program for 52 s, and longer."""
    ask = '{"type":"choose","kind":"open","filters":[{"name":"x","globs":["%s"]}]}'
    assert (GLOB.fullmatch(pattern) is not None) == good
    with nullcontext() if good else pytest.raises(PeerError):
        decode_ask((ask % pattern).encode())


def test_filters_have_a_total():
    def ask(count, rules):
        row = {"name": "x", "globs": ["*.a"] * rules, "types": []}
        return {"type": "choose", "kind": "open", "filters": [row] * count}

    decode_ask(json.dumps(ask(4, 64)).encode())
    with pytest.raises(PeerError):
        decode_ask(json.dumps(ask(5, 64)).encode())
    rows = [("x", [(0, "*.a")] * 100)] * 20
    made = request_of("OpenFile", {"filters": rows})
    assert sum(len(row["globs"]) for row in made["filters"]) == 256
    decode_ask(json.dumps({"type": "choose", **made}).encode())


@pytest.mark.parametrize(
    ("text", "globs"),
    [
        ("*.pdf", ["*.pdf"]),
        ("*.[pP][dD][fF]", ["*.pdf", "*.PDF"]),  # GTK and Firefox
        ("*.[jJ][pP]2", ["*.jp2", "*.JP2"]),
        ("*.*", ["*"]),
        ("*.[ab]", []),
        ("*.tar.*", []),
    ],
)
def test_patterns_of_ordinary_programs(text, globs):
    assert globs_of(text) == globs


def test_only_a_file_is_replaced_and_it_is_not_executable(tmp_path):
    program, fifo, link = (tmp_path / name for name in ("program", "fifo", "link"))
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    os.mkfifo(fifo)
    link.symlink_to(program)
    Saved(str(program), chosen_state(program), 0).replace(_entry(b"x"), "work")
    assert program.stat().st_mode & 0o777 == 0o644
    for path in (fifo, link):
        with pytest.raises(TransferError, match="is not a regular file"):
            Saved(str(path), chosen_state(path), 0).replace(_entry(b"y"), "work")
    assert program.read_text() == "x"


# -- programs of one sandbox --------------------------------------------------------------


def asked(member, options):
    fields = {MEMBER: member, SENDER: ":1.5"}
    return BusMessage(1, fields, "ssa{sv}", ("", "", options))


def test_a_program_closes_no_dialog_of_another_one():
    dialogs = PortalDialogs(lambda *_: None)
    dialogs._dialogs["/handle"] = dialog = FileDialog(":1.5")
    with pytest.raises(CallError):
        dialogs.close(":1.6", "/handle")
    assert not dialog.over
    dialogs.forget_program(":1.6")
    assert not dialog.over
    dialogs.close(":1.5", "/handle")
    assert dialog.over
    dialog.close()


@pytest.mark.parametrize(
    "options",
    [
        {"filters": [1]},
        {"filters": [("x", [(0,)])]},
        {"filters": [({}, [])]},
        {"filters": [("x", [(0, 5)])]},
        {"current_file": [999]},
    ],
)
def test_options_of_another_form_end_no_portal(options):
    dialogs = PortalDialogs(lambda *_: None)
    with pytest.raises(CallError):
        dialogs._begin(asked("SaveFile", options))
    assert dialogs.busy() == 0


def test_options_that_the_broker_refuses_are_left_out():
    filters = [("x", [(0, "*.t t"), (0, "*.txt"), (1, "*"), (1, "image/*")])]
    ask = request_of("OpenFile", {"filters": filters, "multiple": 1, "choices": []})
    assert ask == {
        "kind": "open",
        "several": True,
        "filters": [{"name": "x", "globs": ["*.txt"], "types": ["image/*"]}],
    }


# -- a real desktop -------------------------------------------------------------------------

ASKS = """
import sys, json, struct, socket, os
sock = socket.socket(socket.AF_UNIX)
sock.connect(os.environ[sys.argv[2]].partition(":")[2])
body = sys.argv[1].encode()
sock.sendall(struct.pack("<I", len(body)) + body)
while True:
    data = sock.recv(65536)
    if not data:
        break
    sys.stdout.buffer.write(data)
    sys.stdout.flush()
"""


@asynccontextmanager
async def desktop():
    async with (
        notifying(RULES, "work", "personal") as (w, screen, guests),
        desktop_portal(screen.env),
    ):
        yield w, screen, guests


OPEN, SAVE = '{"type":"choose","kind":"open"}', '{"type":"choose","kind":"save"}'


def ask(guest, text=OPEN, variable="VITRAIL_CALL", stdout=PIPE):
    words = ["/usr/bin/python3", "-c", ASKS, text, variable]
    return spawn(words, env=guest.env, stdout=stdout, stderr=DEVNULL)


async def said(child):
    with trio.fail_after(60):
        await child.wait()
    with child.popen.stdout as out:
        return out.read().decode(errors="replace")


async def dismissed(screen, keyboard, child):
    """Press Escape in each dialog until a program has its answer; returns that."""
    async with trio.open_nursery() as nursery:

        async def press():
            while True:
                if await open_dialogs(screen, "work:"):
                    keyboard.press(ESCAPE)
                await trio.sleep(0.2)

        nursery.start_soon(press)
        text = await said(child)
        nursery.cancel_scope.cancel()
    return text


@REAL
async def test_dialogs_are_few_and_end_with_who_asked_for_them():
    async with desktop() as (w, screen, guests):
        work, personal = guests["work"], guests["personal"]
        first = ask(work, stdout=DEVNULL)
        await wait_window(screen.comp, title="work: open files")
        # A second one at the same time is refused, and so is what other rules deny.
        assert "too many calls" in await said(ask(work))
        assert "denies copying files into it" in await said(ask(personal))
        assert "denied" in await said(ask(personal, SAVE))
        # The program ends: so does its dialog.
        first.kill()
        await first.wait()

        async def none():
            return not await open_dialogs(screen, "work:")

        await eventually(none)
        # Dismissed ones come no more after some.
        with Keyboard(screen.comp.display) as keyboard:
            texts = [await dismissed(screen, keyboard, ask(work)) for _ in range(4)]
        assert all("done" in text for text in texts[:-1]), texts
        assert "were dismissed" in texts[-1]
        assert not w.events("transfer.begin")


@REAL
async def test_a_file_is_saved_by_its_sandbox_alone_and_by_its_rule(tmp_path):
    async with desktop() as (w, screen, guests):
        saved, out = tmp_path / "saved.txt", tmp_path / "out"
        with out.open("w") as stdout:
            child = ask(guests["work"], SAVE, stdout=stdout)
        await pick(screen, "work: save a file", saved)
        found = await eventually(lambda: re.search(r'"back":"(\w+)"', out.read_text()))
        give = f'{{"type":"return","token":"{found[1]}","size":1}}'
        # guard: see "a token of a return is used once"
        text = await said(ask(guests["personal"], give, "VITRAIL_COPY"))
        assert "no file to return has this token" in text
        # A file above the record's size is refused before its bytes.
        large = f'{{"type":"return","token":"{found[1]}","size":{1 << 62}}}'
        text = await said(ask(guests["work"], large, "VITRAIL_COPY"))
        assert "larger than" in text
        child.kill()
        await child.wait()

        async def refused():
            text = await said(ask(guests["work"], give, "VITRAIL_COPY"))
            return "no file to return" in text

        await eventually(refused)
        assert not saved.exists()
        # A dialog that is open ends with its rule.
        child = ask(guests["work"])
        await wait_window(screen.comp, title="work: open files")
        (w.paths.config[0] / "policy.d" / "30-mine.policy").write_text("")

        async def none():
            return not await open_dialogs(screen, "work:")

        await eventually(none)
        assert "refused" in await said(child)
