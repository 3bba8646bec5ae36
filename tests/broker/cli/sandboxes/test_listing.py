"""``brokerctl list``: records, and those whose sandboxes start by themselves."""

from __future__ import annotations

import json

import pytest

from broker.core.paths import find_paths
from tests.kit.brokerctl import brokerctl, home

RECORD = 'class = "persistent"\n{}[launch]\ncommand = ["mail"]\n'


@pytest.fixture
def world():
    with home() as env:
        folder = find_paths(env).config[0] / "sandboxes.d"
        folder.mkdir(parents=True)
        (folder / "web.toml").write_text(RECORD.format(""))
        yield env, folder


async def test_services_are_what_starts_by_itself(world):
    env, folder = world
    (folder / "mail.toml").write_text(RECORD.format('autostart = "login"\n'))
    done = await brokerctl("list", "--services", env=env)
    assert done.code == 0, done.err
    assert done.lines[0].split() == ["NAME", "STARTS", "RUNNING", "PROGRAM"]
    assert [line.split() for line in done.lines[1:]] == [
        ["mail", "at", "login", "-", "mail"]
    ]
    shown = json.loads((await brokerctl("list", "--services", "--json", env=env)).out)
    assert [(one["name"], one["starts"]) for one in shown["records"]] == [
        ("mail", "at login")
    ]
    every = json.loads((await brokerctl("list", "--json", env=env)).out)
    assert {one["name"]: one["starts"] for one in every["records"]} == {
        "mail": "at login",
        "web": None,
    }


async def test_without_services_it_says_how_to_make_one(world):
    env, _ = world
    done = await brokerctl("list", "--services", env=env)
    assert done.code == 0
    assert "brokerctl set NAME autostart login" in done.err
    assert not done.out
