"""Files and links between sandboxes, with a real broker and the guests' programs.

The guests are processes, so that no machine is booted.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path

from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.wayland.compositor import steady
from tests.kit.world import descriptors, record, world

pytestmark = requires("waypipe")
RULES = """\
vitrail.OpenURL  * work @default  allow target=personal scheme=https rate=4/min
vitrail.OpenFile * work @default  allow target=personal max-size=1M
vitrail.FileCopy * work personal  allow max-size=10M
vitrail.FileCopy * work @adminvm  allow max-size=10M
vitrail.FileCopy * personal work  deny
vitrail.FileCopy * work absent    allow
"""


@asynccontextmanager
async def sandboxes(rules=RULES):
    async with world(
        {"app": record(), "absent": record("persistent", launch='image = "absent"')},
        start=False,
        image=False,
    ) as w:
        home = w.base / "person"
        home.mkdir()
        w.environ["HOME"] = str(home)
        w.write_rules(rules)
        await w.start()
        async with plain(w, "work", "personal") as guests:
            yield w, guests["work"], guests["personal"]


async def shown(path: Path):
    async def there():
        return path.exists() and path.read_text()

    return await eventually(there)


async def test_what_programs_open_goes_where_the_rules_send_it():
    async with sandboxes() as (w, work, personal):
        out = personal.folder / "out"
        personal.opens("x-scheme-handler/https", f"sh -c 'echo $0 > {out}-url' %u")
        code, said = await work.command("xdg-open", "HTTPS://Example.org/a?b")
        assert code == 0, said
        assert await shown(Path(f"{out}-url")) == "https://example.org/a?b\n"

        personal.opens(
            "text/plain",
            f"sh -c 'stat -c %%a-%%s $0 > {out}; cat $0 >> {out}; mv {out} {out}-file' %f",
        )
        (work.home / "notes.txt").write_text("some notes")
        code, said = await work.command("vitrail-open", "notes.txt")
        assert code == 0, said
        assert await shown(Path(f"{out}-file")) == "400-10\nsome notes"

        for bad in ("http://example.org/", "javascript:alert(1)", "https://a@b/"):
            code, said = await work.command("xdg-open", bad)
            assert (code, said[:9]) == (1, "vitrail: "), said
        code, said = await personal.command("xdg-open", "https://example.org/")
        assert (code, "denied" in said) == (1, True), said
        ends = w.events("transfer.end", outcome="done", sandbox="work")
        assert [end["target"] for end in ends] == ["personal"] * 2
        assert w.events("decision", verdict="deny", service="vitrail.OpenURL")
        # Which link, by whom allowed: one row has it.
        begin = await w.only_event("transfer.begin", service="vitrail.OpenURL")
        allowed = await w.only_event(
            "decision", verdict="allow", service="vitrail.OpenURL", sandbox="work"
        )
        assert begin["object"] == "https://example.org/a?b"
        assert begin["rule"] == allowed["rule"]
        assert begin["stream"] == allowed["stream"] > 0
        assert allowed["object"] == "example.org"
        assert [end["opened_in"] for end in ends] == ["personal"] * 2


async def test_directories_are_copied_between_sandboxes_and_to_the_person():
    async with sandboxes() as (w, work, personal):
        tree = work.home / "d"
        (tree / "e").mkdir(parents=True)
        for number in range(200):
            (tree / "e" / str(number)).write_text(str(number))
        (tree / "big").write_bytes(os.urandom(3_000_000))
        (tree / "big").chmod(0o4755)
        (tree / "link").symlink_to("/etc/passwd")
        for target in ("personal", "@adminvm"):
            code, said = await work.command("vitrail-copy", "d", target)
            assert (code, "left out 1: only files" in said) == (3, True), said
            assert "d/link" in said
        homes = (personal.home, Path(w.environ["HOME"]))
        for home in homes:
            there = home / "Incoming/work/d"
            assert (there / "big").read_bytes() == (tree / "big").read_bytes()
            assert (there / "big").stat().st_mode & 0o7777 == 0o600
            assert {p.name: p.read_text() for p in (there / "e").iterdir()} == {
                str(n): str(n) for n in range(200)
            }
            assert not (there / "link").is_symlink()
        ends = w.events("transfer.end", outcome="done")
        assert [(e["target"], e["files"]) for e in ends] == [
            ("personal", 203),
            ("dom0", 203),
        ]
        assert [end["opened_in"] for end in ends] == ["personal", "dom0"]


async def test_what_no_rule_permits_leaves_nothing():
    async with sandboxes() as (w, work, personal):
        (work.home / "large").write_bytes(bytes(11 << 20))
        for words in (("large", "personal"), ("large", "nowhere"), ("large", "work")):
            code, said = await work.command("vitrail-copy", *words)
            assert code == 1, said
        code, said = await personal.command("vitrail-copy", "/etc/hostname", "work")
        assert (code, "denied" in said) == (1, True), said
        (work.home / "a.pdf").write_bytes(b"MZ")
        code, said = await work.command("vitrail-open", "a.pdf")
        assert (code, "program" in said) == (1, True), said
        # A record of work's own class that cannot be started: no descriptor stays.
        pid = await w.broker_pid()

        async def pipes():
            return descriptors(pid)["pipe"]

        before = await steady(pipes)
        for _ in range(5):
            code, said = await work.command("vitrail-copy", "/etc/hostname", "absent")
            assert (code, "denied" in said) == (1, False), said
        assert await steady(pipes) == before
        assert not (personal.home / "Incoming").exists()
        assert not list(Path(w.environ["HOME"]).iterdir())


async def test_a_limit_of_a_rule_ends_a_flood():
    async with sandboxes() as (_, work, personal):
        personal.opens("x-scheme-handler/https", "true %u")
        codes = [
            (await work.command("xdg-open", f"https://example.org/{n}"))[0]
            for n in range(6)
        ]
        assert codes == [0] * 4 + [1] * 2


async def run_cli(w, *words):
    answer = await brokerctl(*words, env=w.environ | {"PYTHONPATH": os.getcwd()})
    return answer.code, answer.out + answer.err


PERSONS = """\
vitrail.OpenURL  * @adminvm @default allow target=personal host=*.example.org
vitrail.OpenURL  * @adminvm work     deny
vitrail.FileCopy * work     personal allow
"""


async def test_the_person_opens_and_copies():
    async with sandboxes(PERSONS) as (w, work, personal):
        out = personal.folder / "out"
        personal.opens("x-scheme-handler/https", f"sh -c 'echo $0 > {out}-url' %u")
        personal.opens("text/plain", f"sh -c 'cat $0 > {out}-file' %f")
        code, said = await run_cli(w, "open", "https://www.example.org/")
        assert (code, "opened in personal" in said) == (0, True), said
        assert await shown(Path(f"{out}-url")) == "https://www.example.org/\n"
        code, said = await run_cli(w, "open", "https://example.com/")
        assert (code, "no single sandbox" in said) == (1, True), said
        code, said = await run_cli(w, "open", "--in", "work", "https://a.b/")
        assert (code, "denied" in said) == (1, True), said

        mine = w.base / "mine"
        (mine / "d").mkdir(parents=True)
        (mine / "d" / "notes.txt").write_text("my notes")
        code, said = await run_cli(w, "open", "--in", "personal", f"{mine}/d/notes.txt")
        assert code == 0, said
        assert await shown(Path(f"{out}-file")) == "my notes"
        code, said = await run_cli(w, "cp", f"{mine}/d", "personal:")
        assert code == 0, said
        kept = personal.home / "Incoming/desktop/d/notes.txt"
        assert kept.read_text() == "my notes"
        (work.home / "x").write_text("from work")
        code, said = await run_cli(w, "cp", f"work:{work.home}/x", "personal:")
        assert code == 0, said
        assert (personal.home / "Incoming/work/x").read_text() == "from work"
        begun = [e for e in w.events("transfer.begin") if "sandbox" not in e]
        assert [e["target"] for e in begun] == ["personal"] * 3


async def test_copy_that_leaves_files_out_reports_them():
    """Pipes, sockets and links: they were dropped, and it said "copied"."""
    async with sandboxes(PERSONS) as (w, work, personal):
        folder = w.base / "mine"
        (folder / "d").mkdir(parents=True)
        (folder / "d/real").write_text("x")
        (folder / "d/latest").symlink_to("real")
        os.mkfifo(folder / "d/pipe")
        os.mkfifo(folder / "p")
        code, output = await run_cli(w, "cp", f"{folder}/d", "personal:")
        assert code == 3, output
        assert "copied to ~/Incoming/desktop in personal" in output
        assert "left out 2: only files" in output
        assert "d/latest, d/pipe" in output
        assert os.listdir(personal.home / "Incoming/desktop/d") == ["real"]
        code, output = await run_cli(w, "cp", f"{folder}/p", "personal:")
        assert (code, "nothing to copy" in output, "p" in output) == (1, True, True), (
            output
        )
        assert "copied to" not in output

        (work.home / "t").mkdir()
        (work.home / "t/real").write_text("x")
        (work.home / "t/lnk").symlink_to("real")
        code, output = await run_cli(w, "cp", f"work:{work.home}/t", "personal:")
        assert (code, "left out 1: only files" in output) == (3, True), output
        assert "t/lnk" in output


async def test_copy_with_a_refused_name_starts_no_sandbox():
    """The message has the name and the character, also for a file in a directory."""
    async with sandboxes(PERSONS) as (w, _work, _personal):
        folder = w.base / "mine"
        folder.mkdir()
        (folder / "a\u202etxt.exe").write_text("x")
        file = f"{folder}/a\u202etxt.exe"
        for argv in (
            ("cp", f"{folder}", "absent:"),
            ("cp", file, "absent:"),
            ("open", "--in", "app", file),
        ):
            code, output = await run_cli(w, *argv)
            assert code == 1
            assert "U+202E" in output
            assert "txt.exe" in output
        assert w.events("transfer.begin") == [], "nothing was begun"


async def test_a_file_of_the_users_that_cannot_be_read_is_named_with_the_reason():
    """It was one of three messages, by which of two processes ended first."""
    async with sandboxes(PERSONS) as (w, _work, personal):
        folder = w.base / "mine"
        (folder / "inner").mkdir(parents=True)
        for name in ("secret.txt", "inner/secret.txt"):
            (folder / name).write_text("x")
            (folder / name).chmod(0)
        secret = f"{folder}/secret.txt"
        for words in (
            ("cp", secret, "personal:"),
            ("open", "--in", "personal", secret),
        ):
            code, said = await run_cli(w, *words)
            assert (code, said.splitlines()[0]) == (
                1,
                f"error: cannot read {secret}: Permission denied",
            )
        assert w.events("transfer.begin") == [], "nothing was begun"
        for _ in range(3):
            code, said = await run_cli(w, "cp", f"{folder}/inner", "personal:")
            assert code == 1
            assert f"{folder}/inner/secret.txt: Permission denied" in said
        folder.joinpath("inner").chmod(0)
        code, said = await run_cli(w, "cp", f"{folder}/inner", "personal:")
        assert (code, said.splitlines()[0]) == (
            1,
            f"error: cannot read {folder}/inner: Permission denied",
        )
        folder.joinpath("inner").chmod(0o700)
        assert not list(personal.home.glob("Incoming/desktop/secret.txt"))


EDITS = """\
vitrail.OpenFile * work     @default allow target=personal max-size=1M return=yes
vitrail.OpenFile * @adminvm personal allow return=yes
"""


async def test_an_edited_file_comes_back():
    async with sandboxes(EDITS) as (w, work, personal):
        personal.opens("text/plain", "sh -c 'echo more >> $0' %f")
        notes = work.home / "notes.txt"
        notes.write_text("some notes\n")
        notes.chmod(0o640)
        code, said = await work.command("vitrail-open", "--edit", "notes.txt")
        assert (code, "previous version is notes.txt~" in said) == (0, True), said
        assert notes.read_text() == "some notes\nmore\n"
        assert notes.stat().st_mode & 0o7777 == 0o640
        assert (work.home / "notes.txt~").read_text() == "some notes\n"
        returned = await w.wait_event("transfer.returned", sandbox="work")
        assert (returned["target"], returned["bytes"]) == ("personal", 16)
        assert len({returned["before"], returned["after"]}) == 2
        assert sorted(os.listdir(work.home)) == ["notes.txt", "notes.txt~"]

        mine = w.base / "mine.txt"
        mine.write_text("mine\n")
        for want in ("mine\nmore\n", "mine\nmore\nmore\n"):
            code, said = await run_cli(
                w, "open", "--edit", "--in", "personal", f"{mine}"
            )
            assert (code, "replaced" in said) == (0, True), said
            assert mine.read_text() == want
        kept = [(w.base / f"mine.txt{n}").read_text() for n in ("~", ".~2~")]
        assert kept == ["mine\n", "mine\nmore\n"]


async def test_a_file_that_was_not_changed_or_was_changed_here_stays():
    async with sandboxes(EDITS) as (w, work, personal):
        notes = work.home / "notes.txt"
        notes.write_text("x")
        personal.opens("text/plain", "true %f")
        code, said = await work.command("vitrail-open", "--edit", "notes.txt")
        assert (code, "unchanged" in said) == (0, True), said
        assert os.listdir(work.home) == ["notes.txt"]
        # An editor that changes it, while its owner does so here.
        both = f"sh -c 'echo theirs > $0; echo mine > {notes}' %f"
        personal.opens("text/markdown", both)
        notes = notes.rename(work.home / "notes.md")
        both = both.replace("notes.txt", "notes.md")
        personal.opens("text/markdown", both)
        code, said = await work.command("vitrail-open", "--edit", "notes.md")
        assert (code, "was also changed here" in said) == (0, True), said
        assert notes.read_text() == "mine\n"
        assert (work.home / "notes.md (edited)").read_text() == "theirs\n"
        assert not w.events("transfer.returned", bytes=0)


async def test_nothing_comes_back_without_a_rule():
    async with sandboxes() as (w, work, personal):
        personal.opens("text/plain", "sh -c 'echo more >> $0' %f")
        (work.home / "notes.txt").write_text("x")
        code, said = await work.command("vitrail-open", "--edit", "notes.txt")
        assert (code, "to be returned" in said) == (1, True), said
        mine = w.base / "mine.txt"
        mine.write_text("mine")
        code, said = await run_cli(w, "open", "--edit", "--in", "personal", f"{mine}")
        assert (code, "return=yes" in said) == (1, True), said
        assert (mine.read_text(), os.listdir(work.home)) == ("mine", ["notes.txt"])


@requires("dbus-run-session", "gdbus")
async def test_the_portal_of_addresses_and_files_leads_to_the_rules():
    """By gdbus, and by GLib's own client of the portal."""
    async with sandboxes() as (w, work, personal):
        out = personal.folder / "out"
        personal.opens("x-scheme-handler/https", f"sh -c 'echo $0 >> {out}' %u")
        personal.opens("text/plain", f"sh -c 'cat $0 > {out}-file' %f")
        (work.home / "notes.txt").write_text("some notes")
        call = (
            "gdbus call --session --dest org.freedesktop.portal.Desktop "
            "--object-path /org/freedesktop/portal/desktop --method "
        )
        open_uri = f"{call} org.freedesktop.portal.OpenURI.OpenURI ''"
        script = f"""
        set -x
        {call} org.freedesktop.DBus.Properties.Get \\
            org.freedesktop.portal.OpenURI version
        gdbus introspect --session --dest org.freedesktop.portal.Desktop \\
            --object-path / --recurse
        {open_uri} https://example.org/portal '{{}}'
        {open_uri} file:///etc/passwd '{{}}'
        {open_uri} ./--to=other '{{}}'
        {call} org.freedesktop.portal.FileChooser.OpenFile '' '' '{{}}'
        # No program of the guest's own opens anything.
        export GTK_USE_PORTAL=1 XDG_DATA_DIRS=/none XDG_DATA_HOME=/none
        gio open https://example.org/gio
        gio open {work.home}/notes.txt
        while [ ! -e {out}-file ] || [ ! -e {out} ] || ! grep -q gio {out}; do
            sleep 0.1
        done
        """
        session = f"XDG_RUNTIME_DIR={work.folder}/runtime/session"
        code, said = await work.command(
            *("/usr/bin/env", session, "dbus-run-session", "--", "sh", "-c", script)
        )
        assert code == 0, said
        assert "(<uint32 2>,)" in said
        assert "node /org/freedesktop/portal/desktop {" in said
        assert "/org/freedesktop/portal/desktop/request/" in said
        assert said.count("not a URI, or a file: URI") == 2, said
        assert "a sandbox of Vitrail does not provide" in said
        lines = (await shown(out)).splitlines()
        assert set(lines) == {"https://example.org/portal", "https://example.org/gio"}
        assert await shown(Path(f"{out}-file")) == "some notes"
        # The portal answers before it has opened anything.
        done = {"outcome": "done", "sandbox": "work"}
        await eventually(lambda: len(w.events("transfer.end", **done)) == 3)
