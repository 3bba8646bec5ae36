"""The network helper of a box: the program that lays the cable."""

from __future__ import annotations

import os

import pytest

from broker.host.network import veth


@pytest.fixture
def namespace():
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    yield fd
    os.close(fd)


def test_ip_is_found_where_only_administrators_have_it(
    namespace, tmp_path, monkeypatch
):
    """Helpers have a PATH without /usr/sbin, where some systems install it."""
    program = tmp_path / "ip"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/batch\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setattr(veth, "_PLACES", f"/nonexistent:{tmp_path}")
    veth.run_ip("link set lo up\n", namespace)
    assert (tmp_path / "batch").read_text() == "link set lo up\n"


def test_a_missing_ip_is_named(namespace, tmp_path, monkeypatch):
    monkeypatch.setattr(veth, "_PLACES", str(tmp_path))
    with pytest.raises(OSError, match="ip is not installed"):
        veth.run_ip("link set lo up\n", namespace)


def test_an_error_of_ip_is_the_reason(namespace, tmp_path, monkeypatch):
    program = tmp_path / "ip"
    program.write_text("#!/bin/sh\necho 'Unknown device type.' >&2; exit 2\n")
    program.chmod(0o755)
    monkeypatch.setattr(veth, "_PLACES", str(tmp_path))
    with pytest.raises(OSError, match="ip: Unknown device type"):
        veth.run_ip("link add a type veth\n", namespace)
