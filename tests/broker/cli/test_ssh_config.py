"""The lines of ``brokerctl ssh-config``, as ssh itself reads them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from broker.cli.network.ssh_config import _host

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
