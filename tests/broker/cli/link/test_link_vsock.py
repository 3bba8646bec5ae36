"""``link vsock``: the command of a viewer VM's vsock device, on any machine."""

from __future__ import annotations

import json
import os
import shlex

from tests.kit.brokerctl import brokerctl, home, paths_of


def with_tool(env):
    """A home in which the program was downloaded; PATH has none."""
    tools = paths_of(env).tools
    tools.mkdir(parents=True)
    tool = tools / "vhost-device-vsock"
    tool.write_text('#!/bin/sh\necho "$LD_PRELOAD|$*"\n')
    tool.chmod(0o755)
    return tool


async def test_the_printed_command_begins_the_program_with_its_library():
    with home() as env:
        tool = with_tool(env)
        config = paths_of(env).config[0]
        config.mkdir(parents=True, exist_ok=True)
        (config / "link.toml").write_text(
            'connect = "hybrid:/nowhere/x.vsock:6499"\n'
        )  # a host, on which 'demo' and 'run' are refused
        shown = await brokerctl("link", "vsock", env=env)
        assert shown.code == 0, shown.err
        words = shlex.split(shown.out)
        assert (words[0], words[-1]) == ("env", str(tool))
        said = json.loads((await brokerctl("link", "vsock", "--json", env=env)).out)
        assert said["program"] == str(tool)
        preload = said["environment"].get("LD_PRELOAD", "")
        assert words[1:-1] == ([f"LD_PRELOAD={preload}"] if preload else [])
        assert not preload or os.access(preload, os.R_OK)
        assert bool(preload) != ("the library is missing" in shown.err)
