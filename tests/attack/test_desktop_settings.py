"""Attack: a sandbox asks for more of the desktop's settings than its looks."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from jeepney import new_error, new_method_return

from broker.core.errors import UpstreamError
from broker.helpers.process.spawn import DEVNULL, PIPE, spawn
from broker.viewer.looks import (
    TOLD,
    DesktopSettings,
    fixed_settings,
    setting_in,
)
from policy.records.desktop_tables import LOOKS as LOOKS_TABLE
from policy.tools.record_files import parse_record
from tests.kit.desktop_portal import desktop_portal
from tests.kit.eventually import eventually
from tests.kit.guest_notifications import notifying
from tests.kit.needs import requires

LOOKS, GNOME = "org.freedesktop.appearance", "org.gnome.desktop.interface"
WINDOWS = "org.gnome.desktop.wm.preferences"
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
        (WINDOWS, "button-layout", ("s", "x" * 101)),
        (WINDOWS, "button-layout", ("s", ":close\n")),
        (LOOKS, "color-scheme", None),
        (LOOKS, "color-scheme", 1),
        (LOOKS, "color-scheme", ("v",)),
    ],
)
def test_values_of_another_form_stay_on_the_desktop(space, key, variant):
    for value in (variant, ("v", variant), ("v", ("v", variant))):
        assert setting_in(space, key, value) == {}


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
    for setting in fixed.values():
        space, key, form, value = setting
        assert setting_in(space, key, ("v", (form, value))) == {(space, key): setting}
    assert fixed.keys() == TOLD.keys() - {(WINDOWS, "button-layout")}
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


def test_each_setting_of_the_table_is_told():
    values = {"u": 1, "(ddd)": (0.1, 0.2, 0.3), "d": 1.5, "i": 24, "s": "Sans 11"}
    for (space, key), (form, _, _) in TOLD.items():
        assert setting_in(space, key, (form, values[form]))


@requires("waypipe", "mako", "dbus-daemon", "gdbus")
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


class _Portal:
    """A portal with two backends, of which the first is the desktop's."""

    def __init__(self, values):
        self.values = values

    async def send_and_get_reply(self, call):
        space, key = call.body
        if (space, key) not in self.values:
            return new_error(call, "org.freedesktop.portal.Error.NotFound")
        variant = ("v", self.values[space, key])
        return new_method_return(call, "v", (variant,))


async def test_the_desktops_own_backend_says_what_a_setting_is():
    """ReadAll would have the last backend's value, as that of another desktop."""
    settings = DesktopSettings(None)
    await settings._read(_Portal({(LOOKS, "color-scheme"): ("u", 1)}))
    assert list(settings._found.values()) == [(LOOKS, "color-scheme", "u", 1)]
    await settings._read(_Portal({}))
    assert not settings._found


async def test_a_portal_that_refuses_is_not_one_without_the_setting():
    class Refusing:
        async def send_and_get_reply(self, call):
            return new_error(call, "org.freedesktop.DBus.Error.AccessDenied")

    with pytest.raises(UpstreamError):
        await DesktopSettings(None)._read(Refusing())
