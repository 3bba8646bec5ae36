"""The manager's window on a desktop, and a person who reads and presses by AT-SPI."""

from __future__ import annotations

import json
import sys
from contextlib import asynccontextmanager

from broker.helpers.process.spawn import STDOUT, run_tool, spawn

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
for step, word in json.loads(sys.argv[1]):
    until = time.monotonic() + 60
    def done():
        if step == "press":
            return press(word)
        found = any(word in name for _, name in names())
        return found if step == "sees" else not found
    while not done():
        if time.monotonic() > until:
            d = Atspi.get_desktop(0)
            programs = [d.get_child_at_index(n).get_name() for n in range(d.get_child_count())]
            print(json.dumps({"failed": [step, word], "programs": programs, "names": names()}))
            sys.exit(0)
        time.sleep(0.2)
print(json.dumps({"failed": None, "names": names()}))
"""
"""GTK 4.8 sets the state *showing* for windows alone.  Steps: ``sees TEXT`` and ``misses TEXT`` in any shown name, ``press NAME``."""


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


async def person(env, *steps):
    """Do these steps; returns role and name of all that is shown then.

    Raises AssertionError with what is shown if a step does not come true.
    """
    words = ["/usr/bin/python3", "-c", PERSON, json.dumps(steps)]
    said = json.loads(await run_tool(words, env=env, deadline=60.0 * len(steps) + 60))
    assert said["failed"] is None, said
    return said["names"]
