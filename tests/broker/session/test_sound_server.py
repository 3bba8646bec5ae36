"""Where libpulse would look for its server."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.errors import SetupError
from broker.session.sound import find_sound


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/user/7/pulse/native"),
        ({"PULSE_RUNTIME_PATH": "/p", "XDG_RUNTIME_DIR": "/r"}, "/p/native"),
        ({"PULSE_SERVER": "unix:/a/b"}, "/a/b"),
        ({"PULSE_SERVER": "/a/b", "XDG_RUNTIME_DIR": "/r"}, "/a/b"),
        ({"PULSE_SERVER": "{1f}unix:/a/b tcp:host:4713"}, "/a/b"),
        ({"PULSE_SERVER": "tcp:host:4713 unix:/a"}, "/a"),
    ],
)
def test_the_place(environ, path):
    assert find_sound(environ) == Path(path)


@pytest.mark.parametrize("environ", [{}, {"PULSE_SERVER": "tcp:other-machine"}])
def test_no_place(environ):
    with pytest.raises(SetupError):
        find_sound({"XDG_RUNTIME_DIR": "/r", **environ} if environ else {})
