"""Memory and processes of a Podman record: limited where the control group can."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from broker.cli.launchers.podman import can_limit
from broker.host.launchers.podman.arguments import (
    Container,
    ContainerLimits,
    podman_args,
)


@pytest.fixture(name="group")
def _group(tmp_path):
    """Our own control group, in a tree of the test's."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            group = tmp_path / line.removeprefix("0::").lstrip("/")
            group.mkdir(parents=True, exist_ok=True)
            return group
    pytest.skip("this machine has no unified hierarchy")


@pytest.mark.parametrize(
    ("controllers", "able"),
    [
        ("cpuset cpu io memory pids\n", True),
        ("memory pids", True),
        ("memory\n", False),
        ("pids hugetlb\n", False),
        ("\n", False),
    ],
)
def test_both_controllers_are_needed(tmp_path, group, controllers, able):
    (group / "cgroup.controllers").write_text(controllers)
    assert can_limit(tmp_path) is able


def test_version_1_alone_limits_nothing(tmp_path):
    assert not can_limit(tmp_path)


def options(**more):
    container = Container("app", ("true",), "image", None, **more)
    argv = podman_args(container, *map(Path, ("/hooks", "/cid", "/run")))
    return argv[: argv.index("image")]


def limits_of(limits):
    before = options(limits=limits)
    return [word for word in before if word.startswith(("--memory", "--pids"))]


def test_a_container_has_no_priority_and_ends_first():
    given = set(options())
    assert {"--ulimit=rtprio=0:0", "--ulimit=nice=0:0"} <= given
    assert "--oom-score-adj=1000" in given


def test_podman_is_told_how_many_files_a_program_may_open():
    """The hook sets the same, for containers of a person's own command, too."""
    assert "--ulimit=nofile=300:300" in options(open_files=300)


def test_podman_is_told_the_limits_and_otherwise_none():
    assert limits_of(ContainerLimits(512, 100)) == ["--memory=512m", "--pids-limit=100"]
    assert limits_of(None) == []


def test_an_image_gets_no_room_on_the_disk_and_no_timer():
    """By its VOLUME 300 MiB were on the user's disk, and by its HEALTHCHECK a timer."""
    assert {"--image-volume=tmpfs", "--no-healthcheck"} <= set(options())


def test_a_container_has_the_time_zone_that_its_record_chooses():
    assert "--env=TZ=CET-1" in options(variables={"TZ": "CET-1"})
    assert not [word for word in options() if word.startswith("--env=TZ")]


def test_its_bridge_is_mounted_and_starts_its_program():
    places = [Path(path) for path in ("/hooks", "/cid", "/run")]
    container = Container("work", ("xterm",), "image", None, bridge=Path("/b"))
    argv = podman_args(container, *places)
    start = ["/usr/bin/env", "python3", "-I", "-S", "-B", "/run/vitrail-x11", "--"]
    assert argv[-3:] == [f"--entrypoint={json.dumps(start)}", "image", "xterm"]
    assert "/b:/run/vitrail-x11:ro" in argv
    assert "GDK_BACKEND=wayland,x11" in argv
    # Nothing that it could start.
    argv = podman_args(replace(container, command=()), *places)
    assert argv[-1] == "image"


def test_a_container_has_the_render_nodes_that_it_is_given_and_no_others():
    node = Path("/dev/dri/renderD128")
    assert f"--device={node}" in options(devices=(node,))
    assert not any(word.startswith("--device") for word in options())
