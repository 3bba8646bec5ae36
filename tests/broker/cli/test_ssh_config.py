"""The lines of ``brokerctl ssh-config``, as ssh itself reads them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from broker.cli.network.ssh_config import _host
from tests.kit.brokerctl import called, home, paths_of

TRUSTING = """\
Host *
    ForwardAgent yes
    ForwardX11 yes
    ForwardX11Trusted yes
    GSSAPIDelegateCredentials yes
    PermitLocalCommand yes
    Tunnel yes
    User root
"""


def test_options_of_all_hosts_denied_to_sandbox(tmp_path):
    """The sandbox's sshd would get the user's agent, past vitrail.SshAgent."""
    if shutil.which("ssh") is None:
        pytest.skip("ssh is not installed")
    config = tmp_path / "config"
    config.write_text(_host("work", "user", 2222) + TRUSTING)
    argv = ["ssh", "-G", "-F", str(config), "work"]
    output = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    options = dict(line.split(" ", 1) for line in output.splitlines() if " " in line)
    assert (options["user"], options["port"]) == ("user", "2222")
    denied = ("forwardagent", "forwardx11", "forwardx11trusted", "permitlocalcommand")
    assert {options[name] for name in (*denied, "gssapidelegatecredentials")} == {"no"}
    assert options["tunnel"] == "false"


@pytest.fixture
def env():
    with home() as environ:
        folder = paths_of(environ).config[0] / "sandboxes.d"
        folder.mkdir(parents=True)
        for name, kind in (("vm", "microvm"), ("net", "bwrap")):
            text = (
                f'class = "persistent"\n[launch]\nkind = "{kind}"\ncommand = ["sh"]\n'
            )
            (folder / f"{name}.toml").write_text(text)
        yield environ


def test_box_left_out_at_port_of_root(env):
    """Its programs cannot listen there, so 'ssh net' could never work."""
    answer = called("ssh-config", env=env)
    assert "Host vm\n" in answer.out
    assert "Host net" not in answer.out
    assert "boxes and containers are left out" in answer.err
    answer = called("ssh-config", "--port", "2222", env=env)
    assert "Host net\n" in answer.out
    assert "left out" not in answer.err


def test_box_by_name_refused_with_the_command_that_works(env):
    answer = called("ssh-config", "net", env=env)
    assert (answer.code, answer.out) == (1, "")
    assert "run 'brokerctl ssh-config --port 2222 net'" in answer.err
    answer = called("ssh-config", "--port", "2222", "net", env=env)
    assert (answer.code, "Port 2222" in answer.out) == (0, True)
