"""A change of name is whole, also after a crash at any step of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.errors import UpstreamError
from broker.core.names import SandboxName
from broker.host.homes import renaming
from broker.host.homes.renaming import Renaming, recover, rename_sandbox
from broker.host.homes.store import DISK, HomeStore

MAIL, POST = SandboxName("mail"), SandboxName("post")


@pytest.fixture
def store(tmp_path: Path) -> HomeStore:
    made = HomeStore(tmp_path / "homes")
    with made.new(DISK) as prepared:
        (prepared / DISK).write_bytes(b"letters")
        made.publish(prepared, MAIL)
    (tmp_path / "mail.toml").write_text("old")
    return made


def change(tmp_path: Path) -> Renaming:
    old, new = tmp_path / "mail.toml", tmp_path / "post.toml"
    return Renaming("mail", "post", str(old), str(new), "new text")


def check(store: HomeStore, tmp_path: Path) -> None:
    assert store.find(MAIL) is None
    assert store.require(POST).disk.read_bytes() == b"letters"
    assert (tmp_path / "post.toml").read_text() == "new text"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["homes", "post.toml"]
    assert sorted(p.name for p in store.root.iterdir()) == [".locks", "post"]


def test_record_and_home_change_together(store, tmp_path):
    rename_sandbox(store, change(tmp_path))
    check(store, tmp_path)


class _PowerCutError(Exception):
    pass


@pytest.mark.parametrize("step", range(12))
def test_a_crash_at_any_step_is_completed_later(store, tmp_path, monkeypatch, step):
    left = step

    def flush(_path):
        nonlocal left
        left -= 1
        if left < 0:
            raise _PowerCutError

    with monkeypatch.context() as patched:
        patched.setattr(renaming, "flush_folder", flush)
        patched.setattr("broker.core.files.replace_file.flush_folder", flush)
        patched.setattr("broker.host.homes.store.flush", flush)
        try:
            rename_sandbox(store, change(tmp_path))
        except _PowerCutError:
            pass
        else:
            assert step > 3
    recover(store)
    if store.find(MAIL) is not None:  # nothing had been written down yet
        rename_sandbox(store, change(tmp_path))
    check(store, tmp_path)


def test_a_description_that_cannot_be_read_is_an_error(store):
    (store.root / ".renaming.json").write_text("{")
    with pytest.raises(UpstreamError, match="renaming"):
        recover(store)
