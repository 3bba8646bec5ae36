"""Which program of a guest opens a type, compared with xdg-mime(1) and gio(1).

If one fails, a sandbox opens files in another program than its own file manager does,
or with a command line that the program misreads.
"""

from __future__ import annotations

import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import pytest

from shims.files import desktop_entries, openers
from shims.files.openers import kind_of, opener
from shims.files.protocol import TransferError

PDF = "application/pdf"
XDG_MIME = "/usr/bin/xdg-mime"


class GuestFiles:
    """The desktop files of a guest, with few programs in its PATH."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data, self.config = home / "data", home / "config"
        for name in ("aaa", "zzz", "kkk"):
            self.add_program(name)

    def add_program(self, name):
        path = self.home / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)

    def add(self, file_id, command, *lines, kinds=PDF):
        path = self.data / "applications" / file_id
        path.parent.mkdir(parents=True, exist_ok=True)
        extra = "\n".join(lines)
        path.write_text(
            "[Desktop Entry]\nType=Application\nName=The name\n"
            f"Exec={command}\nMimeType={kinds};\n{extra}\n"
        )
        self.update()
        return path

    def update(self):
        """Write the cache that update-desktop-database(1) writes, which GLib reads."""
        top = self.data / "applications"
        ids = {}
        for path in sorted(top.rglob("*.desktop")):
            kinds = path.read_text().partition("MimeType=")[2].partition(";")[0]
            file_id = str(path.relative_to(top)).replace("/", "-")
            ids[kinds] = ids.get(kinds, "") + f"{file_id};"
        cache = ["[MIME Cache]", *(f"{kinds}={value}" for kinds, value in ids.items())]
        (top / "mimeinfo.cache").write_text("\n".join(cache) + "\n")

    def choose(self, text, folder=None):
        path = (folder or self.config) / "mimeapps.list"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture(params=["library", "specification"])
def guest(request, tmp_path, monkeypatch):
    """Set up a guest with GLib, or without it."""
    for name, path in (
        ("PATH", "bin"),
        ("XDG_DATA_HOME", "data"),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_DATA_DIRS", "none"),
        ("XDG_CONFIG_DIRS", "none"),
    ):
        monkeypatch.setenv(name, str(tmp_path / path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CURRENT_DESKTOP", raising=False)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    if request.param == "specification":
        monkeypatch.setattr(
            openers,
            "list_entries",
            lambda kind: [*desktop_entries.list_spec_entries(kind)],
        )
    else:
        monkeypatch.setattr(openers, "list_entries", list_in_fresh_process)
    return GuestFiles(tmp_path)


def list_in_fresh_process(kind):
    """Ask GLib in a process of its own: it reads the variables once."""
    code = (
        "import sys; from shims.files.desktop_entries import list_entries as f\n"
        "print(*f(sys.argv[1]), sep='\\n')"
    )
    root = Path(__file__).parents[3]
    answer = subprocess.run(
        [sys.executable, "-c", code, kind],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    return answer.stdout.split()


def commands(kind=PDF, path="/d/a b.pdf"):
    return opener(path, kind, [])


def test_choice_of_file_manager_comes_first(guest):
    guest.add("aaa.desktop", "aaa %f")
    guest.add("zzz.desktop", "zzz %f")
    guest.choose(f"[Default Applications]\n{PDF}=zzz.desktop\n")
    assert commands() == ["zzz", "/d/a b.pdf"]


@pytest.mark.skipif(not Path(XDG_MIME).exists(), reason="no xdg-mime")
def test_xdg_mime_makes_the_same_choice(guest):
    guest.add("aaa.desktop", "aaa %f")
    guest.add("zzz.desktop", "zzz %f")
    guest.choose(f"[Default Applications]\n{PDF}=zzz.desktop\n")
    control = subprocess.run(
        [XDG_MIME, "query", "default", PDF],
        env={
            "HOME": str(guest.home),
            "PATH": f"{guest.home}/bin:/usr/bin:/bin",
            "XDG_DATA_HOME": str(guest.data),
            "XDG_CONFIG_HOME": str(guest.config),
        },
        check=True,
        capture_output=True,
        text=True,
    )
    assert control.stdout.strip() == "zzz.desktop"
    assert commands() == ["zzz", "/d/a b.pdf"]


@pytest.mark.skipif(not find_library("gio-2.0"), reason="no GLib")
def test_library_finds_entries_if_installed(tmp_path, monkeypatch):
    """The specification's reader would hide it if GLib were never asked."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    GuestFiles(tmp_path).add("aaa.desktop", "/bin/true %f")
    code = "from shims.files.desktop_entries import list_gio_entries as f; print(f('application/pdf'))"
    root = Path(__file__).parents[3]
    argv = [sys.executable, "-c", code]
    answer = subprocess.run(argv, cwd=root, check=True, capture_output=True, text=True)
    assert str(tmp_path / "data/applications/aaa.desktop") in answer.stdout


def test_choice_beside_desktop_files_is_used(guest):
    guest.add("aaa.desktop", "aaa %f")
    guest.add("zzz.desktop", "zzz %f")
    guest.choose(
        f"[Default Applications]\n{PDF}=gone.desktop;zzz.desktop\n",
        guest.data / "applications",
    )
    assert commands() == ["zzz", "/d/a b.pdf"]


def test_removed_association_is_left_out(guest):
    guest.add("aaa.desktop", "aaa %f")
    guest.add("zzz.desktop", "zzz %f")
    guest.choose(f"[Removed Associations]\n{PDF}=aaa.desktop;\n")
    assert commands() == ["zzz", "/d/a b.pdf"]


def test_added_association_precedes_registered_types(guest):
    guest.add("aaa.desktop", "aaa %f")
    guest.add("zzz.desktop", "zzz %f", kinds="image/png")
    guest.choose(f"[Added Associations]\n{PDF}=zzz.desktop;\n")
    assert commands() == ["zzz", "/d/a b.pdf"]


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("aaa --file=%f", ["aaa", "--file=/d/a b.pdf"]),
        ("aaa -caption %c %f", ["aaa", "-caption", "The name", "/d/a b.pdf"]),
        ("aaa %i -k %k %U", ["aaa", "--icon", "pic", "-k", "PATH", "/d/a b.pdf"]),
        ("env X=1 aaa 100%% %f", ["env", "X=1", "aaa", "100%", "/d/a b.pdf"]),
        ('aaa "%%f" "" %m', ["aaa", "%f", "", "/d/a b.pdf"]),
        (r'aaa "a \\"b\\\\\\\\" %F', ["aaa", r'a "b\\', "/d/a b.pdf"]),
    ],
)
def test_field_codes_expanded_as_specified(guest, command, argv):
    guest.add_program("env")
    path = guest.add("aaa.desktop", command, "Icon=pic")
    assert commands() == [str(path) if w == "PATH" else w for w in argv]


def test_translated_name_is_used(guest, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_AT.UTF-8")
    guest.add("aaa.desktop", "aaa %c %f", "Name[de]=Der Name")
    assert commands() == ["aaa", "Der Name", "/d/a b.pdf"]


def test_unknown_field_code_is_skipped(guest):
    guest.add("aaa.desktop", "aaa %z %f")
    guest.add("zzz.desktop", "zzz %f")
    assert commands() == ["zzz", "/d/a b.pdf"]


def test_entry_in_subdirectory_is_found(guest):
    guest.add("kde/aaa.desktop", "kkk %f")
    assert commands() == ["kkk", "/d/a b.pdf"]
    guest.add("zzz.desktop", "zzz %f")
    guest.choose(f"[Default Applications]\n{PDF}=kde-aaa.desktop\n")
    assert commands() == ["kkk", "/d/a b.pdf"]


def test_terminal_program_runs_in_terminal(guest):
    guest.add("aaa.desktop", "aaa %f", "Terminal=true")
    with pytest.raises(TransferError, match=r"aaa.desktop needs a terminal, and none"):
        commands()
    guest.add_program("xterm")
    assert commands() == ["xterm", "-e", "aaa", "/d/a b.pdf"]


@pytest.mark.parametrize("line", ["TryExec=absent", "TryExec=/absent", "Hidden=true"])
def test_absent_program_is_skipped(guest, line):
    guest.add("aaa.desktop", "aaa %f", line)
    guest.add("zzz.desktop", "zzz %f")
    assert commands() == ["zzz", "/d/a b.pdf"]


def test_program_of_parent_type_opens_special_type(guest):
    guest.add("aaa.desktop", "aaa %f", kinds="text/plain")
    assert commands("text/x-python") == ["aaa", "/d/a b.pdf"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.own", "application/x-own"),
        ("A.OWN", "application/x-own"),
        ("make.own", "text/x-make"),
        ("a.x", "text/plain"),
    ],
)
def test_shared_mime_info_names_the_type(guest, name, kind):
    mime = guest.data / "mime"
    mime.mkdir(parents=True)
    (mime / "globs2").write_text(
        "50:application/x-own:*.own\n50:text/x-make:make.own\n50:text/x-c:*.X:cs\n"
    )
    (guest.home / name).write_text("text")
    assert kind_of(str(guest.home / name)) == kind
