"""Helpers of the session that were taken over: which files they can still open.

The prompt agent, the one for screen readers and the frame around a shared screen stay in
the session for its compositor and buses; they need no file of the user.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
import trio

from broker.helpers.prompt import name_strip, screen_frame, use_banner
from broker.programs import accessible, prompt
from tests.kit.wayland.compositor import short_directory

_OPENED, _REFUSED = 8, 7


def _taken_over(program, arguments, attempt):
    """Return how an attempt ends in a program, from the moment that it would serve."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            sys.argv = ["program", *arguments]
            code = _run(program, attempt)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _run(program, attempt):
    def attack(*_args, **_options):
        try:
            attempt()
        except OSError:
            os._exit(_REFUSED)
        os._exit(_OPENED)

    if program is screen_frame:
        program.ScreenFrame = attack
        program.main(*sys.argv[1:])
    elif program is use_banner:
        program.UseBanner = attack
        program.main(*sys.argv[1:])
    elif program is name_strip:
        program.fitting = attack
        program.main(*sys.argv[1:])
    else:
        trio.run = attack
    program.main()
    return 98


@pytest.fixture(
    params=[prompt, accessible, screen_frame, use_banner], ids=lambda p: p.__name__
)
def attempted(request):
    """Attempt something in one of the helpers."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arguments = [str(theirs.fileno())]
        if request.param is screen_frame:
            arguments = ["ff0000", "1", "1", "0", "0"]
        if request.param is use_banner:
            arguments = ["ff0000:work: camera"]
        yield lambda attempt: _taken_over(request.param, arguments, attempt)


def test_a_helper_opens_no_file_of_the_user(attempted):
    with short_directory() as home:
        secret = home / "id_ed25519"
        secret.write_text("secret")
        for attempt in (
            secret.read_text,
            lambda: os.listdir(home),
            lambda: (home / ".bashrc").write_text("attack"),
            lambda: Path(f"/proc/self/root{secret}").read_text(),
            lambda: Path(f"/proc/{os.getppid()}/cmdline").read_text(),
        ):
            assert attempted(attempt) == _REFUSED
        assert [path.name for path in home.iterdir()] == ["id_ed25519"]


def test_a_helper_opens_its_programs_and_reaches_the_compositor(attempted):
    with short_directory() as place, socket.socket(socket.AF_UNIX) as compositor:
        compositor.bind(str(place / "wayland-0"))
        compositor.listen()

        def connect():
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(place / "wayland-0"))

        for attempt in (connect, Path(os.__file__).read_bytes, os.getcwd):
            assert attempted(attempt) == _OPENED


def test_what_parses_a_font_has_the_font_alone():
    with short_directory() as home:
        (home / "font").write_text("hostile")
        arguments = ["18", str(home / "font"), "0"]
        for attempt in (
            (home / "font").read_text,
            Path(os.__file__).read_bytes,
            lambda: os.listdir(home),
            lambda: socket.socket(socket.AF_UNIX),
            lambda: os.kill(os.getppid(), 0),
        ):
            code = _taken_over(name_strip, arguments, attempt)
            assert code == -signal.SIGSYS
        nothing = _taken_over(name_strip, arguments, lambda: None)
        assert nothing == _OPENED  # the control


def test_a_file_that_is_not_a_font_is_reported(capfd):
    with short_directory() as home:
        (home / "font").write_text("not a font" * 100)
        pid = os.fork()
        if pid == 0:
            name_strip.main("18", str(home / "font"), "0")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    # FreeType's reason, and no traceback, for which files would be opened.
    assert len(capfd.readouterr().err.splitlines()) == 1
