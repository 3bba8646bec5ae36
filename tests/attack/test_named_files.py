"""Attack: a sandbox leaves a link under the name that the user gives to brokerctl."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from types import SimpleNamespace

import click
import pytest
import trio
from click.testing import CliRunner

from broker.authority.control.server import serve
from broker.cli.audit.files import write_out
from broker.cli.transfer import named_files, named_path
from broker.cli.transfer.arrivals import Arrivals
from broker.cli.transfer.named_files import open_named, writable_places
from broker.cli.transfer.named_path import NamedPath, path_of
from broker.cli.transfer.sanitize import NewDocumentFolder
from broker.cli.verbs import VERBS
from broker.core.errors import RefusedError, UpstreamError
from broker.viewer.folders.control import FolderControl
from broker.viewer.folders.desk import FolderDesk, SharedFolder
from tests.kit.brokerctl import home as user_home
from tests.kit.brokerctl import paths_of
from tests.kit.control import partly

SECRET = "a private document"
PLANTED = "a sandbox may have created"
LOOKED_AFTER = {
    "sanitize": "opens by ``open_named`` and ``open_named_directory``",
    "share": "the broker opens it by ``open_folder``",
    "unshare": "is compared with the paths of folders that are shared, and not opened",
}
"""Verbs that take a path without ``NamedPath``, and why."""


def paths(command: click.Command) -> Iterator[click.Parameter]:
    """Yield the parameters of a verb that are paths."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            yield from paths(inner)
    yield from (one for one in command.params if isinstance(one.type, click.Path))


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_paths_of_a_verb_lead_through_no_link_of_a_sandbox(verb):
    module = importlib.import_module(f"broker.cli.{VERBS[verb]}")
    open_ones = [p for p in paths(module.command) if not isinstance(p.type, NamedPath)]
    assert bool(open_ones) == (verb in LOOKED_AFTER), (verb, open_ones)


@pytest.fixture(name="shared", params=["record", "service"])
def _shared(tmp_path, monkeypatch, request):
    """A directory that a sandbox may write to, with a link to a document beside it."""
    (tmp_path / "private.pdf").write_text(SECRET)
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "real.pdf").write_text("a report")
    (shared / "planted.pdf").symlink_to("../private.pdf")
    (tmp_path / "mine.pdf").symlink_to("private.pdf")
    settings = tmp_path / "config/vitrail"
    for name in ("sandboxes.d", "services.d"):
        (settings / name).mkdir(parents=True)
    (settings / "services.d/broken.toml").write_text("command = 1\n")
    if request.param == "service":
        (settings / "services.d/notes.toml").write_text(
            f'command = ["cat"]\nwrite = ["{shared}"]\n'
        )
    else:
        (settings / "sandboxes.d/writer.toml").write_text(
            'class = "persistent"\ndisplay = "none"\n[launch]\nkind = "bwrap"\n'
            f'bind_read_write = ["{shared}"]\n'
        )
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return shared


@click.command()
@click.argument("file", type=NamedPath())
def _verb(file):
    """Read a file."""
    with open(file) as opened:
        click.echo(opened.read())


def test_a_sandboxs_link_is_refused_and_the_users_own_is_followed(shared, monkeypatch):
    monkeypatch.chdir(shared)
    for name in ("planted.pdf", "./planted.pdf", str(shared / "planted.pdf")):
        answer = CliRunner().invoke(_verb, [name])
        assert isinstance(answer.exception, RefusedError), answer
        assert PLANTED in str(answer.exception)
        assert SECRET not in answer.output
    for name, text in (("real.pdf", "a report"), ("../mine.pdf", SECRET)):
        answer = CliRunner().invoke(_verb, [name])
        assert (answer.exit_code, text in answer.output) == (0, True), answer


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("file:///a%20b", "/a b"),
        ("file:///shared/photos%0Ahome/report.pdf", "/shared/photos\nhome/report.pdf"),
        ("file:///%FF", "/\udcff"),
        ("file:///a%2520", "/a%20"),
        *((one, one) for one in ("a b", "/a%20b", "file:a", "https://a.test/%41")),
    ],
)
def test_an_address_of_a_file_manager_is_one_path(given, path):
    assert path_of(given) == path


def test_a_pipe_of_the_shell_is_named(shared):
    """``--passphrase-file <(pass show backup)``."""
    reading, writing = os.pipe()
    os.write(writing, b"a passphrase")
    os.close(writing)
    answer = CliRunner().invoke(_verb, [f"/proc/self/fd/{reading}"])
    os.close(reading)
    assert (answer.exit_code, "a passphrase" in answer.output) == (0, True), answer


def swapped(monkeypatch, change):
    """Have a sandbox make a change between the look at a path and its opening."""
    looked = named_files.named_path

    def then_changed(path, places):
        found = looked(path, places)
        change()
        return found

    monkeypatch.setattr(named_files, "named_path", then_changed)


def test_a_link_that_is_made_after_the_look_is_not_opened(shared, monkeypatch):
    def change():
        (shared / "real.pdf").unlink()
        (shared / "real.pdf").symlink_to("../private.pdf")

    swapped(monkeypatch, change)
    with pytest.raises(RefusedError, match="cannot open"):
        open_named(shared / "real.pdf", [shared])


@pytest.fixture(name="exchanged")
def _exchanged(shared, monkeypatch):
    """Have a sandbox rename a directory between its check and its use.

    Returns its path, where it is then, and the directory to which the sandbox's link leads.
    """
    inbox, private = shared / "inbox", shared.parent / "autostart"
    for folder in (inbox, private):
        folder.mkdir()
    check = named_path.refuse_planted_link

    def check_and_change(path):
        resolved = check(path)
        if inbox.is_dir() and not inbox.is_symlink():
            inbox.rename(shared / "was")
            inbox.symlink_to(private)
        return resolved

    monkeypatch.setattr(named_path, "refuse_planted_link", check_and_change)
    return inbox, shared / "was", private


def test_file_is_not_written_through_a_link_made_after_the_check(exchanged):
    """As 'audit export', 'policy graph', 'sandbox backup', 'image export' write one."""
    inbox, _, private = exchanged
    with pytest.raises(UpstreamError, match="Not a directory") as caught:
        write_out(inbox / "app.desktop", ["hostile"], force=False)
    assert str(inbox / "app.desktop") in str(caught.value)
    assert list(private.iterdir()) == []


def test_directory_exchanged_while_its_file_is_written(shared):
    """The file is in the directory that was checked, wherever that is then."""
    inbox, private = shared / "inbox", shared.parent / "autostart"
    for folder in (inbox, private):
        folder.mkdir()

    def texts():
        yield "text"
        inbox.rename(shared / "was")
        inbox.symlink_to(private)

    write_out(inbox / "report.html", texts(), force=False)
    assert list(private.iterdir()) == []
    assert (shared / "was/report.html").read_text() == "text"


def test_target_of_a_copy_is_the_directory_that_was_checked(shared, monkeypatch):
    (shared / "inbox").mkdir()

    def change():
        (shared / "inbox").rename(shared / "was")
        (shared / "inbox").symlink_to("..")

    swapped(monkeypatch, change)
    with pytest.raises(RefusedError, match="cannot open"):
        Arrivals(shared / "inbox", [shared])


def test_a_pipe_in_the_place_of_a_document_is_not_waited_for(shared):
    os.mkfifo(shared / "pipe.pdf")
    with pytest.raises(RefusedError, match="not a regular file"):
        open_named(shared / "pipe.pdf", [shared])


def test_a_harmless_copy_is_in_the_directory_that_was_looked_at(shared):
    """A sandbox puts a link in its place while pages come."""
    (shared / "out").mkdir()
    (shared.parent / "autostart").mkdir()
    document = shared / "real.pdf"
    with NewDocumentFolder(document, "sanitize", shared / "out", [shared]) as result:
        (shared / "out").rename(shared / "was")
        (shared / "out").symlink_to("../autostart")
        with open(f"{result.opened}/a.safe.pdf", "xb") as out:
            out.write(b"%PDF")
    assert os.listdir(shared.parent / "autostart") == []
    assert os.listdir(shared / "was") == ["a.safe.pdf"]


async def test_folders_of_a_running_broker_count(shared):
    """Also one whose path the answer escapes or cuts: then all that it may be in."""
    long = shared.parent / ("d" * 200) / ("e" * 200)
    long.mkdir(parents=True)

    def folder(path, *, write):
        lease = SimpleNamespace(sandbox="work")
        mounted = SimpleNamespace(path="/folders/x")
        return SharedFolder(lease, path, write, mounted=mounted)

    desk = FolderDesk.__new__(FolderDesk)
    desk._shared = [
        folder(shared.parent / "now", write=True),
        folder(shared.parent / "read", write=False),
        folder(long / "cut", write=True),
    ]
    for one in desk._shared:
        one.path.mkdir()
    with user_home() as env:
        where = paths_of(env)
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, where.control, partly([FolderControl(desk)]))
            found = await trio.to_thread.run_sync(writable_places, where)
            nursery.cancel_scope.cancel()
    assert shared.parent / "now" in found
    assert shared.parent / "read" not in found
    assert found[-1] in (long / "cut").parents
    assert found[-1].is_relative_to(shared.parent)
