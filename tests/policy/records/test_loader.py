"""Directories: shadowing, owners, modes, odd files; no broken file opens anything."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from policy import limits, suggestions
from policy.records import build
from policy.records.loader import (
    FOLDER,
    load_records,
    search_path,
)
from policy.rules.record_gate import DISPLAY, RecordRequest, decide
from policy.tools.record_files import load_files, parse_record

OPEN = 'class = "disposable"\ndisplay = "allow"\n'
SHUT = 'class = "disposable"\ndisplay = "none"\n'


def _folder(base, name, files):
    folder = base / name
    folder.mkdir()
    folder.chmod(0o755)
    for file, text in files.items():
        (folder / file).write_text(text)
        (folder / file).chmod(0o644)
    return folder


def _messages(found):
    return [problem.message for problem in found.problems]


def test_the_first_directory_wins(tmp_path):
    """Same base name: the first file counts, the others are as if not there."""
    first = _folder(tmp_path, "a", {"demo.toml": SHUT})
    second = _folder(tmp_path, "b", {"demo.toml": OPEN, "web.toml": OPEN})
    found = load_records([first, second])
    assert found.problems == ()
    assert found.records["demo"].viewer.display == "none"
    assert found.records["demo"].source == first / "demo.toml"
    assert found.records["web"].source == second / "web.toml"


def test_a_broken_file_still_shadows(tmp_path):
    """A typo in a record never brings a more permissive one back."""
    first = _folder(tmp_path, "a", {"demo.toml": SHUT + "[launch\n"})
    second = _folder(tmp_path, "b", {"demo.toml": OPEN})
    found = load_records([first, second])
    assert "demo" not in found.records
    assert found.broken["demo"].where == f"{first}/demo.toml:3:8"
    assert not decide(found, RecordRequest("demo", "demo", DISPLAY)).allowed


def test_one_broken_file_does_not_silence_the_others(tmp_path):
    """All problems of all files are reported, all good records are there."""
    files = {"a.toml": "clas = 1\n", "b.toml": OPEN, "c.toml": "x\ny\n", "d.toml": SHUT}
    found = load_records([_folder(tmp_path, "d", files)])
    assert set(found.records) == {"b", "d"}
    assert set(found.broken) == {"a", "c"}
    assert [problem.where.rsplit("/", 1)[1] for problem in found.problems] == [
        "a.toml:1:1",
        "c.toml:1:1",
        "c.toml:1:2",
        "c.toml:2:2",
    ]


def test_missing_directories_are_no_problem(tmp_path):
    """Most of the search path does not exist on most machines."""
    found = load_records([tmp_path / "none", tmp_path / "neither" / "nor"])
    assert (found.records, found.broken, found.problems) == ({}, {}, ())


def test_other_files_are_left_alone(tmp_path):
    """Editors' copies, notes and hidden files are no records."""
    files = {"a.toml~": "x", ".a.toml": "x", "a.toml.dpkg-new": "x", "README": "x"}
    folder = _folder(tmp_path, "d", files)
    assert load_records([folder]).problems == ()


@pytest.mark.parametrize(
    "name", ["My Box", "Work", "0a", "a_b", "a" * 32, "ä", "-", "a\nb", "a\x1b"]
)
def test_names_that_are_no_names(tmp_path, name):
    """The file is refused by name, and the name denies."""
    found = load_records([_folder(tmp_path, "d", {f"{name}.toml": OPEN})])
    assert found.records == {}
    assert len(found.problems) == 1
    assert "is not a sandbox's name" in found.problems[0].message
    assert not decide(found, RecordRequest(name, name, DISPLAY)).allowed


def test_a_record_has_not_the_users_name(tmp_path):
    """Its sandbox would have all that rules with the source @adminvm give the user."""
    found = load_records([_folder(tmp_path, "d", {"dom0.toml": OPEN, "a.toml": OPEN})])
    assert list(found.records) == ["a"]
    assert "in rules that is you, the user" in found.broken["dom0"].message
    assert not decide(found, RecordRequest("dom0", "dom0", DISPLAY)).allowed


def test_search_path_puts_the_runtime_directory_first(tmp_path):
    """Runtime over user over system, each with sandboxes.d."""
    config = [tmp_path / "user", tmp_path / "system"]
    assert search_path(tmp_path / "run", config) == (
        tmp_path / "run" / FOLDER,
        tmp_path / "user" / FOLDER,
        tmp_path / "system" / FOLDER,
    )


# -- owners and modes ---------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_files_that_others_can_write_are_refused(tmp_path, mode):
    """Group or world writable: another user who can write it would decide."""
    folder = _folder(tmp_path, "d", {"demo.toml": OPEN, "web.toml": OPEN})
    (folder / "demo.toml").chmod(mode)
    found = load_records([folder])
    assert set(found.records) == {"web"}
    assert _messages(found) == [f"is writable by others (mode {mode:04o})"]
    assert found.problems[0].hint == f"chmod go-w {folder}/demo.toml"


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777])
def test_directories_that_others_can_write_are_refused(tmp_path, mode):
    """Their names deny, and still shadow later ones."""
    first = _folder(tmp_path, "a", {"demo.toml": OPEN})
    second = _folder(tmp_path, "b", {"demo.toml": OPEN, "web.toml": OPEN})
    first.chmod(mode)
    found = load_records([first, second])
    assert set(found.records) == {"web"}
    assert set(found.broken) == {"demo"}
    assert len(found.problems) == 1


@pytest.mark.root
def test_files_of_other_users_are_refused(tmp_path):
    """Only root's and our own count."""
    folder = _folder(tmp_path, "d", {"demo.toml": OPEN})
    os.chown(folder / "demo.toml", 12345, -1)
    found = load_records([folder])
    assert _messages(found) == ["is owned by user 12345, not by root or by you"]
    os.chown(folder / "demo.toml", 0, -1)
    os.chown(folder, 12345, -1)
    found = load_records([folder])
    assert set(found.broken) == {"demo"}
    # Files installed with the program are as trusted as the program.
    assert set(load_records([], shipped=folder).records) == {"demo"}


def test_shipped_records_come_last(tmp_path):
    """A person's own record of the same name wins."""
    own = _folder(tmp_path, "own", {"demo.toml": SHUT})
    shipped = _folder(tmp_path, "shipped", {"demo.toml": OPEN, "web.toml": OPEN})
    shipped.chmod(0o775)
    found = load_records([own], shipped=shipped)
    assert found.problems == ()
    assert found.records["demo"].viewer.display == "none"
    assert "web" in found.records


# -- odd files ------------------------------------------------------------------------


def test_files_that_are_no_files(tmp_path):
    """A FIFO does not stop the broker, a socket and a directory are refused."""
    folder = _folder(tmp_path, "d", {"good.toml": OPEN})
    os.mkfifo(folder / "fifo.toml", 0o644)
    (folder / "dir.toml").mkdir()
    (folder / "null.toml").symlink_to("/dev/null")
    (folder / "gone.toml").symlink_to("/nonexistent")
    (folder / "loop.toml").symlink_to("loop.toml")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "sock.toml"))
        found = load_records([folder])
    assert set(found.records) == {"good"}
    assert set(found.broken) == {"fifo", "dir", "null", "gone", "loop", "sock"}
    assert len(found.problems) == 6


def test_links_to_records_are_followed(tmp_path):
    """Configuration kept elsewhere and linked is common; the target counts."""
    store = _folder(tmp_path, "store", {"x.toml": OPEN, "y.toml": OPEN})
    (store / "y.toml").chmod(0o666)
    folder = _folder(tmp_path, "d", {})
    (folder / "demo.toml").symlink_to(store / "x.toml")
    (folder / "web.toml").symlink_to(store / "y.toml")
    found = load_records([folder])
    assert set(found.records) == {"demo"}
    assert set(found.broken) == {"web"}


def test_a_directory_that_cannot_be_listed_closes_those_behind(tmp_path):
    """It might shadow any record after it, so none of those is used."""
    (tmp_path / "a").write_text("no directory")
    before = _folder(tmp_path, "before", {"mine.toml": OPEN})
    behind = _folder(tmp_path, "behind", {"demo.toml": OPEN, "mine.toml": SHUT})
    found = load_records([before, tmp_path / "a", behind])
    assert set(found.records) == {"mine"}
    assert found.records["mine"].viewer.display == "allow"
    assert set(found.broken) == {"demo"}
    assert len(found.problems) == 1


# -- limits ---------------------------------------------------------------------------


def test_file_size_at_the_limit_and_beyond(tmp_path):
    """N bytes are read, N + 1 are refused."""
    line = "# " + "x" * 61 + "\n"
    fill = (OPEN + line * (limits.FILE_BYTES // len(line) + 1))[: limits.FILE_BYTES - 1]
    folder = _folder(tmp_path, "d", {"a.toml": fill + "\n", "b.toml": fill + "\n\n"})
    found = load_records([folder])
    assert set(found.records) == {"a"}
    assert _messages(found) == [f"has more than {limits.FILE_BYTES} bytes"]


def test_number_of_records_at_the_limit_and_beyond(tmp_path):
    """N records are read; the one beyond is refused by name, the rest stay."""
    files = {f"r{number:04}.toml": SHUT for number in range(limits.RECORDS)}
    folder = _folder(tmp_path, "d", files)
    assert len(load_records([folder]).records) == limits.RECORDS
    (folder / "z.toml").write_text(OPEN)
    found = load_records([folder])
    assert len(found.records) == limits.RECORDS
    assert set(found.broken) == {"z"}


def test_problems_at_the_limit_and_beyond():
    """N problems are listed, more are counted."""
    lines = limits.PROBLEMS_PER_FILE
    _, problems = parse_record("a", Path("a.toml"), OPEN.encode() + b"x\n" * lines)
    assert len(problems) == lines
    _, problems = parse_record(
        "a", Path("a.toml"), OPEN.encode() + b"x\n" * (lines + 1)
    )
    assert len(problems) == lines + 1
    assert problems[-1].message == "1 more problems"


def test_hints_for_unknown_keys_are_bounded(monkeypatch):
    """Each hint compares a key with all that there are: 11 s for 9,000 of them."""
    compared: list[object] = []

    def count(word: object, known: Iterable[str]) -> str:
        compared.append(word)
        return suggestions.nearest(word, known)

    monkeypatch.setattr(build, "nearest", count)
    keys = "".join(f"k{number} = 1\n" for number in range(9000))
    record, problems = parse_record("work", Path("work.toml"), keys.encode())
    assert record is None
    assert problems[-1].message == "8951 more problems"  # 'class' is missing as well
    assert len(set(compared)) == limits.PROBLEMS_PER_FILE


# -- any bytes ------------------------------------------------------------------------

_WORDS = st.sampled_from(
    [b"class", b"=", b'"disposable"', b"[launch]", b"[peer]", b"cid", b"\n", b"\n", b".",
     b"kind", b'"external"', b"[", b"]", b"{", b"}", b'"""', b"'''", b"'", b'"', b"#", b",",
     b"tags", b"12", b"true", b"\r\n", b"\x00", b"\xff", b"\\", b" ", b"[[label]]", b"label"]
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300) | st.lists(_WORDS, max_size=40).map(b"".join))
@example(b"\xef\xbb\xbf")
@example(b"\xff\xfe\x00\x00")
@example(b"a = 1\r\r\n")
def test_any_bytes_are_a_record_or_problems(content):
    """Never both, never neither, never an exception."""
    record, problems = parse_record("demo", Path("a.toml"), content)
    assert (record is None) == bool(problems)
    for problem in problems:
        assert problem.span.line >= 1
        assert problem.span.column >= 1
        problem.render()


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.binary(max_size=200))
def test_a_broken_neighbour_changes_no_decision(tmp_path_factory, content):
    """Whatever one file holds, decisions about another record stay the same."""
    base = tmp_path_factory.mktemp("d")
    folder = _folder(base, "d", {"demo.toml": OPEN})
    before = decide(load_records([folder]), RecordRequest("demo", "demo", DISPLAY))
    (folder / "other.toml").write_bytes(content)
    after = decide(load_records([folder]), RecordRequest("demo", "demo", DISPLAY))
    assert (before.verdict, before.where) == (after.verdict, after.where)


def test_the_digest_names_the_whole_set(tmp_path):
    """It changes with any record, any broken one, and with nothing else."""
    folder = _folder(tmp_path, "d", {"a.toml": OPEN, "b.toml": SHUT})
    first = load_records([folder]).digest
    (folder / "a.toml").write_text("# a note\n" + OPEN)
    assert load_records([folder]).digest == first
    (folder / "b.toml").write_text(OPEN)
    second = load_records([folder]).digest
    (folder / "b.toml").write_text("x")
    third = load_records([folder]).digest
    (folder / "b.toml").unlink()
    fourth = load_records([folder]).digest
    assert len({first, second, third, fourth}) == 4


def test_single_files_may_have_any_owner_and_need_a_valid_name(tmp_path):
    """A draft may belong to any user; its name must still be a name."""
    folder = _folder(tmp_path, "d", {"demo.toml": OPEN, "Bad.toml": OPEN})
    (folder / "demo.toml").chmod(0o666)
    found = load_files([folder / "demo.toml", folder / "Bad.toml"])
    assert set(found.records) == {"demo"}
    assert set(found.broken) == {"Bad"}


@pytest.mark.parametrize("name", ["", "demo.toml"])
def test_what_cannot_be_opened_says_to_restart_the_broker(tmp_path, name):
    """A running one opens what was in its settings when it started."""
    folder = _folder(tmp_path, "a", {"demo.toml": OPEN})
    (folder / name).chmod(0)
    found = load_records([folder])
    folder.chmod(0o755)
    (problem,) = found.problems
    assert problem.message == "cannot be read: Permission denied"
    assert "brokerctl stop --broker" in problem.hint
