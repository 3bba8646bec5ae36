"""The manager's window on a desktop, and a person who reads and presses by AT-SPI."""

from __future__ import annotations

import json
import sys
from contextlib import asynccontextmanager, suppress

from broker.helpers.process.spawn import DEVNULL, STDOUT, run_tool, spawn
from tests.kit.accessibility import accessibility_bus
from tests.kit.wayland.compositor import wait_window

PERSON = """
import json, sys, time
import gi
gi.require_version("Atspi", "2.0")
from gi.repository import Atspi
def windows():
    desktop = Atspi.get_desktop(0)
    for n in range(desktop.get_child_count()):
        program = desktop.get_child_at_index(n)
        if program is not None and "manager" in (program.get_name() or "").lower():
            for k in range(program.get_child_count()):
                yield program.get_child_at_index(k)
def walk(node):
    if node is None:
        return
    yield node
    try:
        below = [node.get_child_at_index(n) for n in range(min(node.get_child_count(), 200))]
    except gi.repository.GLib.Error:
        return  # it has gone meanwhile
    for one in below:
        yield from walk(one)
def nodes():
    for window in windows():
        yield from walk(window)
def showing(node):
    return node.get_state_set().contains(Atspi.StateType.VISIBLE)
def names():
    made = []
    for node in nodes():
        try:
            if showing(node):
                made.append([node.get_role_name(), node.get_name() or ""])
        except gi.repository.GLib.Error:
            pass  # it has gone meanwhile
    return made
def sees(word):
    # Each question to the program is a message: names alone, and no more than needed.
    for node in nodes():
        try:
            if word in (node.get_name() or "") and showing(node):
                return True
        except gi.repository.GLib.Error:
            pass  # it has gone meanwhile
    return False
ROLES = ("push button", "toggle button", "check box")
def press(name):
    # A dialog has its buttons twice, for two widths; the hidden one does nothing.
    pressed = False
    for node in list(nodes()):
        try:
            # The name of a dialog's button has its text twice.
            wanted = node.get_name() in (name, name + " " + name)
            if wanted and node.get_role_name() in ROLES and showing(node):
                action = node.get_action_iface()
                if action is not None and action.get_n_actions():
                    pressed = bool(action.do_action(0)) or pressed
        except gi.repository.GLib.Error:
            pass
    return pressed
def enter(name, text):
    for node in list(nodes()):
        try:
            if node.get_name() == name and showing(node):
                field = node.get_editable_text_iface()
                if field is not None:
                    return bool(field.set_text_contents(text))
        except gi.repository.GLib.Error:
            pass
    return False
def focused(name):
    for node in list(nodes()):
        try:
            if node.get_state_set().contains(Atspi.StateType.FOCUSED) and node.get_name() == name:
                return True
        except gi.repository.GLib.Error:
            pass
    return False
patience = float(sys.argv[2])
last, again = "", 0.0
for step, word in json.loads(sys.argv[1]):
    until = time.monotonic() + patience
    def done():
        if step == "press":
            return press(word)
        if step == "enter":
            return enter(*word.split("=", 1))
        if step == "focused":
            return focused(word)
        return sees(word) if step == "sees" else not sees(word)
    if step == "press":
        last, again = word, time.monotonic() + 10
    while not done():
        if step == "sees" and last and time.monotonic() > again:
            # The page was drawn anew while its button went down: who sees nothing
            # happen presses it again, if it is still there.
            press(last)
            again = time.monotonic() + 10
        if time.monotonic() > until:
            d = Atspi.get_desktop(0)
            programs = [d.get_child_at_index(n).get_name() for n in range(d.get_child_count())]
            print(json.dumps({"failed": [step, word], "programs": programs, "names": names()}))
            sys.exit(0)
        time.sleep(0.2)
print(json.dumps({"failed": None, "names": names() if "names" in sys.argv[3:] else []}))
"""
"""GTK 4.8 sets the state *showing* for windows alone.  Steps: ``sees TEXT`` and
``misses TEXT`` in any shown name, ``press NAME``, ``enter NAME=TEXT`` into an
entry and ``focused NAME``."""


@asynccontextmanager
async def manager(env, log, *words):
    """The manager on the desktop of this environment; its output is in ``log``."""
    with open(log, "wb") as output:
        child = spawn(
            [sys.executable, "-m", "broker.cli.manager.app", *words],
            env={**env, "GSK_RENDERER": "cairo"},
            stdout=output,
            stderr=STDOUT,
        )
        try:
            yield child
        finally:
            await child.stop()


async def person(env, *steps, patience=60.0, names=False):
    """Do these steps; with ``names``, returns role and name of all that is shown then.

    ``patience``: the seconds after which a step has failed.  Raises AssertionError with
    what is shown then.
    """
    words = ["/usr/bin/python3", "-c", PERSON, json.dumps(steps), str(patience)]
    words += ["names"] if names else []
    said = json.loads(
        await run_tool(words, env=env, deadline=patience * len(steps) + 60)
    )
    assert said["failed"] is None, said
    return said["names"]


@asynccontextmanager
async def managed(w, tmp_path, *words):
    """The manager on a world's desktop; yields the environment of the person's tools."""
    async with accessibility_bus() as bus:
        env = {**w.environ, "DBUS_SESSION_BUS_ADDRESS": bus["DBUS_SESSION_BUS_ADDRESS"]}
        log = tmp_path / "manager.log"
        async with manager(env, log, *words):
            try:
                await wait_window(w.comp, title="Vitrail", deadline=90)
                yield {**bus}
            finally:
                print(log.read_text())


@asynccontextmanager
async def keyboard(w):
    """A keyboard that stays: without one a window has no focus between two typed texts."""
    words = ["wtype", "-s", "1000000", "-k", "Shift_L"]
    child = spawn(words, env=w.comp.environment, stdout=DEVNULL, stderr=DEVNULL)
    try:
        yield
    finally:
        await child.stop()


async def reach(w, env, name, *, tabs=0):
    """Press Tab until the focus is on a widget; ``tabs`` of them without a look.

    There must be a ``keyboard``.
    """
    await w.comp.type_text("\t" * tabs)
    for _ in range(40):
        with suppress(AssertionError):
            await person(env, ("focused", name), patience=0.0)
            return
        await w.comp.type_text("\t")
    raise AssertionError(f"no Tab reached '{name}'")
