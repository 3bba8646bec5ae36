"""Where things live on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.errors import SetupError
from broker.core.paths import find_paths

_PLAIN = {"HOME": "/home/ann", "XDG_RUNTIME_DIR": "/run/user/1000"}


def test_an_ordinary_login():
    """The defaults of the XDG base directory specification, below 'vitrail'."""
    paths = find_paths(_PLAIN)
    assert paths.runtime == Path("/run/user/1000/vitrail")
    assert paths.state == Path("/home/ann/.local/state/vitrail")
    assert paths.cache == Path("/home/ann/.cache/vitrail")
    assert paths.config == (Path("/home/ann/.config/vitrail"), Path("/etc/vitrail"))


def test_a_person_who_moved_everything():
    """Each variable is followed; the system's own directory is always last."""
    paths = find_paths(
        {
            **_PLAIN,
            "XDG_STATE_HOME": "/s",
            "XDG_CACHE_HOME": "/c",
            "XDG_CONFIG_HOME": "/x",
            "XDG_CONFIG_DIRS": "/one::/two",
        }
    )
    assert (paths.state, paths.cache) == (Path("/s/vitrail"), Path("/c/vitrail"))
    config = [str(path) for path in paths.config]
    assert config == ["/x/vitrail", "/one/vitrail", "/two/vitrail", "/etc/vitrail"]


def test_empty_variables_are_as_if_not_set():
    """The specification says so."""
    names = ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS")
    empty = find_paths({**_PLAIN, **dict.fromkeys(names, "")})
    assert empty == find_paths(_PLAIN)


def test_what_lies_below():
    """Sockets in the runtime directory, logs in the state, images in the cache."""
    paths = find_paths(_PLAIN)
    assert paths.control == Path("/run/user/1000/vitrail/control")
    assert paths.sandbox("demo") == Path("/run/user/1000/vitrail/sandboxes/demo")
    assert paths.logs("demo") == Path("/home/ann/.local/state/vitrail/logs/demo")
    assert paths.audit == Path("/home/ann/.local/state/vitrail/audit.sqlite")
    assert paths.images == Path("/home/ann/.cache/vitrail/images")
    assert paths.tools == Path("/home/ann/.cache/vitrail/tools")


@pytest.mark.parametrize("value", [None, ""])
def test_no_runtime_directory(value):
    """There is no safe place for sockets then; the hint says how to make one."""
    env = {"HOME": "/home/ann"} | ({} if value is None else {"XDG_RUNTIME_DIR": value})
    with pytest.raises(SetupError, match="XDG_RUNTIME_DIR is not set") as caught:
        find_paths(env)
    assert "mkdir -m 700" in caught.value.hint


def test_the_runtime_directorys_length_at_the_limit_and_beyond():
    """N characters leave room for the longest socket, N + 1 do not."""
    longest = 36
    run = "/" + "r" * (longest - 1)
    paths = find_paths({**_PLAIN, "XDG_RUNTIME_DIR": run})
    socket = paths.sandbox("n" * 31) / "vsock" / "vm.vsock_65535"
    assert len(str(socket)) == 107
    with pytest.raises(SetupError, match="too long for UNIX sockets") as caught:
        find_paths({**_PLAIN, "XDG_RUNTIME_DIR": run + "r"})
    assert f"at most {longest} characters" in caught.value.hint


def test_length_is_counted_in_bytes():
    """The kernel's limit is one of bytes."""
    with pytest.raises(SetupError, match="too long"):
        find_paths({**_PLAIN, "XDG_RUNTIME_DIR": "/" + "é" * 20})


def test_relative_directories_are_not_followed():
    """The specification says to ignore them; sockets beside any working
    directory would be a surprise.
    """
    with pytest.raises(SetupError, match="XDG_RUNTIME_DIR is not an absolute path"):
        find_paths({**_PLAIN, "XDG_RUNTIME_DIR": "run"})
    names = ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS")
    assert find_paths({**_PLAIN, **dict.fromkeys(names, "here")}) == find_paths(_PLAIN)


def test_the_environment_is_the_default(monkeypatch):
    """Read once, when asked."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert find_paths().runtime == Path("/run/user/7/vitrail")
