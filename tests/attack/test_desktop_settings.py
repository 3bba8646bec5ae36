"""Attack: a sandbox asks for more of the desktop's settings than its looks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio

from broker.helpers.process.spawn import DEVNULL, PIPE, spawn
from broker.viewer.looks import (
    TOLD,
    fixed_settings,
    settings_in,
)
from policy.records.desktop_tables import LOOKS as LOOKS_TABLE
from policy.tools.record_files import parse_record
from tests.kit.desktop_portal import desktop_portal
from tests.kit.eventually import eventually
from tests.kit.guest_notifications import notifying

LOOKS, GNOME = "org.freedesktop.appearance", "org.gnome.desktop.interface"
RULES = "vitrail.Settings + work @adminvm allow\n"


@pytest.mark.parametrize(
    ("space", "key", "variant"),
    [
        (LOOKS, "color-scheme", ("u", 3)),
        (LOOKS, "color-scheme", ("s", "1")),
        (LOOKS, "accent-color", ("(ddd)", (0.1, 0.2, 7.0))),
        (GNOME, "text-scaling-factor", ("d", float("nan"))),
        (GNOME, "text-scaling-factor", ("d", 1e9)),
        (GNOME, "cursor-size", ("i", -1)),
        (GNOME, "font-name", ("s", "x" * 101)),
        (GNOME, "font-name", ("s", "Sans\n11")),
        (GNOME, "font-name", ("s", "")),
        (GNOME, "clock-format", ("s", "24h")),
        ("org.gnome.desktop.privacy", "disable-microphone", ("b", False)),
    ],
)
def test_values_of_another_form_and_other_settings_stay_on_the_desktop(
    space, key, variant
):
    assert settings_in(({space: {key: variant}},)) == {}


def test_looks_of_a_record_are_settings_that_may_be_told():
    values = {
        "color_scheme": "dark",
        "accent_color": "#ff0080",
        "contrast": "high",
        "text_scale": 300,
        "cursor_size": 8,
        "font": "Sans 11",
        "document_font": "x" * 100,
        "monospace_font": "Mono 10",
        "language": "de_DE.UTF-8",  # told as variables, to programs that start
    }
    assert values.keys() == LOOKS_TABLE.by_key.keys()
    for key, value in values.items():
        assert LOOKS_TABLE.by_key[key].kind.take(value, (), print) == value
    fixed = fixed_settings(tuple(values.items()))
    reply: dict[str, dict[str, tuple[str, object]]] = {}
    for space, key, form, value in fixed.values():
        reply.setdefault(space, {})[key] = (form, value)
    assert settings_in((reply,)) == fixed
    assert fixed.keys() == TOLD.keys()
    assert fixed[LOOKS, "accent-color"][3] == (1, 0, 128 / 255)


@pytest.mark.parametrize(
    "line",
    [
        'color_scheme = "blue"',
        "contrast = 1",
        'accent_color = "#ff00801"',
        "text_scale = 301",
        "cursor_size = 7",
        'font = "Sans\\n11"',
        f'font = "{"x" * 101}"',
        'wallpaper = "x"',
        'language = "de_DE\\nA=1"',
    ],
)
def test_other_looks_are_refused(line):
    text = f'class = "disposable"\n[looks]\n{line}\n'
    found, problems = parse_record("x", Path("x.toml"), text.encode())
    assert found is None
    assert [problem.span.line for problem in problems] == [3]


@pytest.mark.parametrize("body", [(), (1,), ({LOOKS: 1},), ([],)])
def test_replies_of_another_form_have_no_settings(body):
    assert settings_in(body) == {}


def test_each_setting_of_the_table_is_told():
    values = {"u": 1, "(ddd)": (0.1, 0.2, 0.3), "d": 1.5, "i": 24, "s": "Sans 11"}
    reply: dict[str, dict[str, tuple[str, object]]] = {}
    for (space, key), (form, _, _) in TOLD.items():
        reply.setdefault(space, {})[key] = (form, values[form])
    assert settings_in((reply,)).keys() == TOLD.keys()


@pytest.mark.skipif(
    not all(map(shutil.which, ("waypipe", "mako", "dbus-daemon", "gdbus"))),
    reason="waypipe, mako, dbus-daemon and gdbus are needed",
)
async def test_a_sandbox_has_few_listeners_that_end_with_the_rule():
    async with (
        notifying(RULES, "work", "personal") as (w, screen, guests),
        desktop_portal(screen.env),
    ):
        work = guests["work"]
        tools = work.folder / "runtime/bin"
        for words in (
            ("vitrail-call", "vitrail.Settings", "argument"),
            ("vitrail-call", "-t", "personal", "vitrail.Settings"),
        ):
            code, said = await work.command(*words)
            assert code == 125
            assert "without an argument" in said
        call = [str(tools / "vitrail-call"), "-t", "dom0", "vitrail.Settings"]
        listeners = [
            # Two of them never read.
            spawn(call, env=work.env, stdin=PIPE, stdout=DEVNULL if n < 2 else PIPE)
            for n in range(4)
        ]

        async def listening():
            found = w.events("decision", service="vitrail.Settings", verdict="allow")
            return len(found) == 4

        await eventually(listening)
        code, said = await work.command(
            "vitrail-call", "-t", "dom0", "vitrail.Settings"
        )
        assert code == 125
        assert "too many calls" in said
        (w.paths.config[0] / "policy.d" / "30-mine.policy").write_text("")
        with trio.fail_after(20):
            for child in listeners:
                assert await child.wait() != 0
        for child in listeners:
            for pipe in (child.popen.stdin, child.popen.stdout):
                if pipe is not None:
                    pipe.close()
