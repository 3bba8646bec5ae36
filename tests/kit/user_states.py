"""States of a machine that a user may meet: what is missing, closed, full, not what it is.

A state changes the home and environment of a call, ``tests.kit.every_verb``.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.kit.brokerctl import OUR_PYTHON

_RECORD = """\
class = "persistent"
[label]
name = "B\u00fcro \u2603"
[launch]
kind = "bwrap"
command = ["foot"]
"""


@dataclass
class Home:
    """A user's home and environment for one call; a state changes it."""

    place: Path
    env: dict[str, str]
    output: str = ""
    gone: bool = False
    """Its current directory has been removed."""
    executed: bool = False
    """By a new interpreter: what Python reads from the environment when it begins."""
    answer: bytes | None = None
    """What a false broker says; none runs where it is None and ``silent`` is not set."""
    silent: bool = False
    asked: bool = False
    """The false broker was asked something."""

    @property
    def config(self) -> Path:
        return self.place / ".config/vitrail"

    @property
    def state(self) -> Path:
        return self.place / ".local/state/vitrail"

    @property
    def cache(self) -> Path:
        return self.place / ".cache/vitrail"

    @property
    def runtime(self) -> Path:
        return self.place / "run/vitrail"


def new_home(place: Path) -> Home:
    """Make a home with a record, files and things that are none."""
    home = Home(
        place,
        {
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "HOME": str(place),
            "USER": "user",
            "EDITOR": "/bin/true",
            "XDG_RUNTIME_DIR": str(place / "run"),
            "XDG_CONFIG_DIRS": str(place / "etc"),
            "VITRAIL_FORK": "no",
            **OUR_PYTHON,
        },
    )
    place.mkdir(mode=0o700)
    (place / "run").mkdir(mode=0o700)
    records = home.config / "sandboxes.d"
    records.mkdir(parents=True)
    (records / "work.toml").write_text(_RECORD)
    (place / "file").write_text("some text\n")
    (place / "folder").mkdir()
    (place / "unreadable").write_text("x")
    (place / "unreadable").chmod(0)
    (place / "closed").mkdir()
    (place / "closed/file").write_text("x")
    (place / "closed").chmod(0)
    (place / "loop").symlink_to("loop")
    return home


def unserved_socket(path: Path) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    found.bind(str(path))
    return found


State = Callable[[Home], object]
STATES: dict[str, State] = {}
"""By name; ``path:KIND`` is a path of that kind at each of a verb's places for paths."""


def _state(change: State) -> State:
    STATES[change.__name__.strip("_").replace("_", "-")] = change
    return change


@_state
def _no_broker(home: Home) -> None:
    """No broker, compositor, sound server or session bus."""


@_state
def _broker_closes(home: Home) -> None:
    home.answer = b""


@_state
def _broker_answers_rubbish(home: Home) -> None:
    home.answer = b'HTTP/1.1 200 \xff\0{"a":1}\0'


@_state
def _broker_answers_other_types(home: Home) -> None:
    home.answer = b'{"parameters":{"x":[1]}}\0' * 9


@_state
def _broker_answers_no_object(home: Home) -> None:
    home.answer = b"[1]\0" * 9


@_state
def _broker_is_silent(home: Home) -> None:
    home.silent = True


@_state
def _output_is_full(home: Home) -> None:
    home.output = "full"


@_state
def _output_is_closed(home: Home) -> None:
    home.output = "closed"


@_state
def _reader_has_left(home: Home) -> None:
    home.output = "left"


@_state
def _no_home_variable(home: Home) -> None:
    # As pwd.getpwuid says then, which on this machine is the test's own.
    passwd = Path("/etc/passwd")
    lines = [line.split(":") for line in passwd.read_text().splitlines()]
    for words in lines:
        if words[2] == str(os.getuid()):
            words[5] = home.env["HOME"]
    passwd.write_text("".join(f"{':'.join(words)}\n" for words in lines))
    del home.env["HOME"]


@_state
def _no_runtime_variable(home: Home) -> None:
    del home.env["XDG_RUNTIME_DIR"]


@_state
def _no_variables(home: Home) -> None:
    _no_home_variable(home)
    for name in ("XDG_RUNTIME_DIR", "LANG", "TERM", "USER", "PATH", "XDG_CONFIG_DIRS"):
        home.env.pop(name)


@_state
def _posix_locale(home: Home) -> None:
    home.env["LC_ALL"] = "POSIX"
    home.executed = True


@_state
def _removed_directory(home: Home) -> None:
    home.gone = True


@_state
def _no_runtime_directory(home: Home) -> None:
    (home.place / "run").rmdir()


@_state
def _runtime_directory_is_a_file(home: Home) -> None:
    (home.place / "run").rmdir()
    (home.place / "run").write_text("")


@_state
def _runtime_directory_is_read_only(home: Home) -> None:
    (home.place / "run").chmod(0o500)


@_state
def _runtime_is_a_file(home: Home) -> None:
    home.runtime.write_text("")


@_state
def _control_is_a_directory(home: Home) -> None:
    home.runtime.mkdir(mode=0o700)
    (home.runtime / "control").mkdir()


@_state
def _control_is_a_file(home: Home) -> None:
    home.runtime.mkdir(mode=0o700)
    (home.runtime / "control").write_text("")


@_state
def _home_is_not_there(home: Home) -> None:
    home.env["HOME"] = "/nonexistent/home"


@_state
def _home_is_a_file(home: Home) -> None:
    home.env["HOME"] = str(home.place / "file")


@_state
def _home_is_closed(home: Home) -> None:
    home.env["HOME"] = str(home.place / "closed")


@_state
def _home_is_read_only(home: Home) -> None:
    for place in (home.place, home.config.parent, home.config):
        place.chmod(0o500)
    (home.config / "sandboxes.d").chmod(0o500)


@_state
def _settings_are_a_file(home: Home) -> None:
    shutil.rmtree(home.config)
    home.config.write_text("")


@_state
def _settings_are_closed(home: Home) -> None:
    home.config.chmod(0)


@_state
def _settings_are_directories(home: Home) -> None:
    """Each file of settings, wherever the manual names one."""
    names = ("clipboard.toml", "link.toml", "ship.toml", "phrase")
    for name in (*names, "network.toml", "policy.d/10-x.policy"):
        (home.config / name).mkdir(parents=True)


@_state
def _settings_are_rubbish(home: Home) -> None:
    names = ("clipboard.toml", "link.toml", "ship.toml", "network.toml")
    (home.config / "policy.d").mkdir()
    for name in (*names, "policy.d/10-x.policy", "sandboxes.d/work.toml"):
        (home.config / name).write_bytes(b"\xff\0[[[")


@_state
def _records_are_a_file(home: Home) -> None:
    shutil.rmtree(home.config / "sandboxes.d")
    (home.config / "sandboxes.d").write_text("")
    (home.config / "policy.d").write_text("")


@_state
def _records_are_closed(home: Home) -> None:
    (home.config / "sandboxes.d").chmod(0)
    (home.config / "policy.d").mkdir(mode=0)


@_state
def _record_is_a_directory(home: Home) -> None:
    (home.config / "sandboxes.d/work.toml").unlink()
    (home.config / "sandboxes.d/work.toml").mkdir()


@_state
def _record_is_unreadable(home: Home) -> None:
    (home.config / "sandboxes.d/work.toml").chmod(0)
    (home.config / "policy.d").mkdir()
    (home.config / "policy.d/10-x.policy").write_text("x\n")
    (home.config / "policy.d/10-x.policy").chmod(0)


@_state
def _state_is_a_file(home: Home) -> None:
    home.state.parent.mkdir(parents=True)
    home.state.write_text("")


@_state
def _state_is_closed(home: Home) -> None:
    home.state.mkdir(parents=True)
    home.state.chmod(0)


@_state
def _state_is_directories(home: Home) -> None:
    for name in ("audit.sqlite", "homes", "logs/work/console.log", "ship/x", "phrase"):
        (home.state / name).mkdir(parents=True)
    (home.state / "broker.log").mkdir()


@_state
def _state_is_rubbish(home: Home) -> None:
    home.state.mkdir(parents=True)
    for name in ("audit.sqlite", "homes", "logs", "ship", "lockdown", "phrase"):
        (home.state / name).write_bytes(b"rubbish\xff\0" * 1000)


@_state
def _state_is_unreadable(home: Home) -> None:
    home.state.mkdir(parents=True)
    for name in ("audit.sqlite", "lockdown", "broker.log"):
        (home.state / name).write_text("")
        (home.state / name).chmod(0)


@_state
def _cache_is_a_file(home: Home) -> None:
    home.cache.parent.write_text("")


@_state
def _cache_is_closed(home: Home) -> None:
    home.cache.mkdir(parents=True)
    home.cache.chmod(0)


@_state
def _cache_is_files(home: Home) -> None:
    home.cache.mkdir(parents=True)
    for name in ("images", "parents", "tools"):
        (home.cache / name).write_text("")


@_state
def _disk_is_full(home: Home) -> None:
    """``_fill`` does it, before each call."""


@_state
def _twenty_at_once(home: Home) -> None:
    """Each call is made by twenty processes of one home; ``_plan`` does it."""


BAD_PATHS = {
    "missing": "missing/deeper/file",
    "unreadable": "unreadable",
    "directory": "folder",
    "below-a-file": "file/inside",
    "closed": "closed/file",
    "loop": "loop",
    "socket": "socket",
    "long": "n" * 300,
    "empty": "",
    "bytes": "b\udcff\n\x1bx",
    "full": "/dev/full",
    "root": "/",
    "read-only": "/usr/missing",
}
