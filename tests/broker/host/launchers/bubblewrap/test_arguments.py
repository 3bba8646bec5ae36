"""What a box is told to have, and what the command line names for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from broker.cli.quick.made_record import with_files
from broker.host.launchers.bubblewrap.arguments import (
    SOCKETS,
    Box,
    BoxDescriptors,
    bwrap_args,
)

MADE = (
    *("/var/lib/aspell", "/var/lib/ghostscript", "/var/lib/texmf"),
    *("/var/lib/usbutils", "/var/cache/postgresql/dicts"),
    *(f"/sys/devices/system/cpu/{name}" for name in ("kernel_max", "offline")),
    *(f"/sys/devices/system/cpu/{name}" for name in ("online", "possible", "present")),
)
"""Data that packages make of their own, and numbers of processors."""
FDS = BoxDescriptors(status=11, passwd=12, group=13, rules=14)


def binds(args: list[str]) -> list[tuple[str, str, str]]:
    """Every mount of something of the host's: how, from where, to where."""
    return [
        (word, args[at + 1], args[at + 2])
        for at, word in enumerate(args)
        if word.startswith("--") and "bind" in word
    ]


def test_nothing_of_the_persons_is_mounted_and_nothing_writable() -> None:
    sockets = Path("/run/user/1000/vitrail/boxes/box-1")
    args = bwrap_args(Box(("foot",), sockets), FDS, 1000)
    for how, source, _ in binds(args):
        assert how.startswith("--ro-bind"), source
        allowed = source.startswith(("/usr", "/etc/", "/lib", "/bin", "/sbin", *MADE))
        assert allowed or source in {str(sockets), "/dev/null", "12", "13"}, source
    assert ("--ro-bind", str(sockets), SOCKETS) in binds(args)
    assert args[args.index("--") + 1 :][:2] == ["/bin/sh", "-c"]
    assert args[-2:] == ["sh", "foot"]
    for word in ("--unshare-all", "--new-session", "--die-with-parent", "--clearenv"):
        assert word in args
    assert args[args.index("--cap-drop") + 1] == "ALL"


def test_a_box_has_an_x_server_only_if_it_is_asked_for() -> None:
    box, fds = Box(("xterm",), Path("/s")), replace(FDS, x11=15)
    for one, there in ((box, False), (replace(box, x11=True), True)):
        args = bwrap_args(one, fds, 1000)
        assert (("--ro-bind-data", "15", "/run/vitrail-x11.py") in binds(args)) is there
        assert (("--ro-bind-try", "/etc/X11", "/etc/X11") in binds(args)) is there
        assert ("wayland,x11" in args) is there
        assert args[-1] == "xterm"
        assert (args[-3:-1] == ["/run/vitrail-x11.py", "--"]) is there


def test_a_box_has_a_link_to_its_zone_or_the_file() -> None:
    box = Box(("foot",), Path("/s"))
    copied = ("--ro-bind-try", "/etc/localtime", "/etc/localtime")
    assert copied in binds(bwrap_args(box, FDS, 1000))
    args = bwrap_args(replace(box, zone="Europe/Berlin"), FDS, 1000)
    assert copied not in binds(args)
    at = args.index("/usr/share/zoneinfo/Europe/Berlin")
    assert args[at - 1 : at + 2 : 2] == ["--symlink", "/etc/localtime"]


def test_a_box_has_the_devices_that_it_is_given_and_no_others() -> None:
    words = ("--dev-bind", "/dev/dri/renderD128", "/dev/dri/renderD128")
    box = Box(("foot",), Path("/s"))
    given = replace(box, devices=words)
    assert words in binds(bwrap_args(given, FDS, 1))
    assert given.owns_files, "the node is the user's"
    assert not any("dri" in word for word in bwrap_args(box, FDS, 1))


def test_words_of_the_command_are_no_options() -> None:
    args = bwrap_args(Box(("--bind", "/", "/"), Path("/s")), FDS, 1)
    assert args[-4:] == ["sh", "--bind", "/", "/"]
    assert ("--bind", "/", "/") not in binds(args[: args.index("--")])


def test_files_that_are_named_are_readable_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "link").symlink_to("a.txt")
    (tmp_path / "folder").mkdir()
    words, files = with_files(
        ("gedit", "a.txt", "link", "folder", "-x", "", "/usr/bin/env", "no.txt"),
        tmp_path,
    )
    real = tmp_path.resolve() / "a.txt"
    assert files == (real, real)
    assert words == (
        *("gedit", str(real), str(real), "folder", "-x", ""),
        *("/usr/bin/env", "no.txt"),
    )
    box = Box(words, tmp_path, files)
    assert ("--ro-bind", str(real), str(real)) in binds(bwrap_args(box, FDS, 1))


def test_the_program_itself_is_no_file_argument(tmp_path: Path) -> None:
    """The program is looked for inside, by its name or path."""
    (tmp_path / "run").write_text("x")
    assert with_files(("run",), tmp_path) == (("run",), ())


def test_a_box_beside_a_sandbox_joins_it_and_has_no_bus_of_its_own() -> None:
    words = bwrap_args(Box(("x",), Path("/s")), replace(FDS, beside=(20, 21)), 1000)
    at = words.index("--userns")
    assert words[at : at + 4] == ["--userns", "21", "--pidns", "20"]
    assert {"--unshare-pid", "--unshare-net", "--unshare-ipc"} <= set(words)
    assert "--unshare-all" not in words
    assert "dbus-daemon" not in str(words)
