"""Rootless Podman for one test: the settings of its store, and its commands."""

from __future__ import annotations

import subprocess

# Settings for a machine without systemd, or with mixed cgroups; harmless on others.
CONF = """\
[containers]
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "{runtime}"
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{base}/store"
runroot = "{base}/run"
"""


def run(env, *words, check=True, seconds=120):
    """A podman command; its output."""
    done = subprocess.run(
        ["podman", *words],
        check=False,
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def stop_waiting(env):
    """End the process that keeps a user's namespace for the next podman."""
    run(env, "system", "migrate", check=False)
