"""``brokerctl clipboard``, as a person and a script run it, on a real socket."""

from __future__ import annotations

import os

import msgspec
import pytest

from broker.ipc.control.api import ChordTrouble, ClipboardOffer
from tests.kit.brokerctl import brokerctl, harmless, paths_of
from tests.kit.control import EMPTY_BOARD, ScriptedBroker, serving

HELD = msgspec.structs.replace(
    EMPTY_BOARD,
    source="work",
    types=["text/plain", "image/png"],
    size=12_345,
    seconds=299.4,
    offered=[ClipboardOffer(source="work", target="vault", seconds=12.0)],
    exported="work",
    focused="vault",
)


async def test_status_and_clear(env):
    api = ScriptedBroker()
    api.board = HELD
    async with serving(paths_of(env).control, api):
        told = await brokerctl("clipboard", "status", env=env)
        assert told.code == 0, told
        assert told.lines == [
            "12 kB from work: text/plain, image/png (erased in 5 min)",
            "work -> vault: may be pasted (expires in 12.0 s)",
            "your clipboard contains a copy from work",
            "the keyboard focus is in vault",
            "copy Super+Shift+C, paste Super+Shift+V",
        ]
        (shown,) = (await brokerctl("clipboard", "status", "--json", env=env)).objects
        assert shown["offered"] == [
            {"source": "work", "target": "vault", "seconds": 12}
        ]
        told = await brokerctl("clipboard", "clear", "--json", env=env)
        assert told.objects == [{"cleared": True}]
        told = await brokerctl("clipboard", "status", env=env)
        assert told.lines[0] == "there is no content to paste"


async def test_where_there_are_no_chords_it_says_so_and_why(env):
    api = ScriptedBroker()
    trouble = ChordTrouble(sandbox="work", reason="no keymap \x1b[31m here")
    api.board = msgspec.structs.replace(
        EMPTY_BOARD, troubles=[trouble], problem="clipboard.toml: no preset"
    )
    async with serving(paths_of(env).control, api):
        told = await brokerctl("clipboard", "status", env=env)
    assert told.code == 1
    assert told.lines[2:] == [
        "chords do not work in work: no keymap \\x1b[31m here",
        "clipboard.toml: no preset",
    ]
    assert all(harmless(line) for line in told.lines)


async def test_without_a_broker(env):
    for verb in ("status", "clear"):
        told = await brokerctl("clipboard", verb, env=env)
        assert told.code == 1
        assert "no broker is running" in told.err


async def test_chords_are_chosen_once_and_a_running_broker_hears_of_it(env):
    told = await brokerctl("clipboard", "chords", env=env)
    assert told.lines[0] == "copy   Super+Shift+C  (vitrail)"
    told = await brokerctl("clipboard", "chords", "qubes", env=env)
    assert told.code == 0, told
    assert "no broker is running" in told.err
    path = paths_of(env).config[0] / "clipboard.toml"
    assert 'preset = "qubes"' in path.read_text()
    told = await brokerctl("clipboard", "chords", "input-method", env=env)
    assert told.lines[0] == "copy   Super+Ctrl+C  (input-method)"
    api = ScriptedBroker()
    async with serving(paths_of(env).control, api):
        words = ("--copy", "Super+Alt+C", "--paste", "Super+Alt+V", "--json")
        told = await brokerctl("clipboard", "chords", *words, env=env)
        assert told.objects[0]["paste"] == "Super+Alt+V"
        assert api.chosen == 1


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("emacs",), 2, "emacs"),
        (("qubes", "--copy", "Super+X"), 1, "both given"),
        (("--copy", "Super+Alt+C"), 1, "no chord is given for paste"),
        (("--copy", "Shift+C", "--paste", "Super+V"), 1, "part of ordinary typing"),
        (("--copy", "Super+C", "--paste", "Super+C"), 1, "cannot both"),
    ],
)
async def test_malformed_chords_change_nothing(env, words, code, why):
    told = await brokerctl("clipboard", "chords", *words, env=env)
    assert told.code == code
    assert why in told.err
    assert not (paths_of(env).config[0] / "clipboard.toml").exists()


async def test_a_file_with_a_mistake_leaves_the_default_and_says_so(env):
    path = paths_of(env).config[0] / "clipboard.toml"
    path.parent.mkdir(parents=True)
    path.write_text('preset = "qubes"\ncolour = 7\n')
    told = await brokerctl("clipboard", "chords", env=env)
    assert told.code == 1
    assert told.lines[0].startswith("copy   Super+Shift+C")
    assert "colour" in told.err


async def test_a_file_that_others_may_write_to_is_not_read(env):
    path = paths_of(env).config[0] / "clipboard.toml"
    path.parent.mkdir(parents=True)
    path.write_text('preset = "qubes"\n')
    path.chmod(0o666)
    told = await brokerctl("clipboard", "chords", env=env)
    assert told.lines[0].startswith("copy   Super+Shift+C")
    assert "is writable by others" in told.err


async def test_a_pipe_in_its_place_is_not_waited_for(env):
    path = paths_of(env).config[0] / "clipboard.toml"
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    told = await brokerctl("clipboard", "chords", env=env)
    assert told.lines[0].startswith("copy   Super+Shift+C")
    assert "not a regular file" in told.err
