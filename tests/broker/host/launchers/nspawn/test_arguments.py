"""systemd-nspawn's command line, without starting it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from broker.host.launchers.nspawn.arguments import ContainerTree, Scope, nspawn_args

ROOT = ("/srv/root", "64:2")
TREE = ContainerTree("work", ("gedit", "a b"), Path("/srv/root"), Path("/run/s:1"))


def test_the_program_follows_the_gate_and_the_restrictions_precede_it():
    words = nspawn_args(TREE, Path("/group"), ROOT)
    assert words[-2:] == ["gedit", "a b"]
    assert "--directory=/run/systemd/vitrail/0" in words
    gate = words.index("--chdir=/home/user")
    assert words[gate + 1] == "--"
    options = words[words.index("systemd-nspawn") : gate]
    assert {
        "--drop-capability=all",
        "--no-new-privileges=yes",
        "--private-network",
        "--volatile=overlay",
        "--settings=no",
    } <= set(options)


def test_a_colon_in_a_path_does_not_divide_the_option():
    words = nspawn_args(TREE, Path("/group"), ROOT)
    assert "--bind-ro=/run/s\\:1:/run/vitrail" in words


def test_systemd_is_asked_for_a_group_with_the_records_limits():
    words = nspawn_args(TREE, Scope(512, 100), ROOT)
    scope = words[: words.index("unshare")]
    assert scope[:3] == ["systemd-run", "--user", "--scope"]
    assert {"--property=MemoryMax=512M", "--property=TasksMax=100"} <= set(scope)
    assert "--property=Delegate=yes" in scope


def test_without_systemd_it_joins_the_group_that_was_made_for_it():
    words = nspawn_args(TREE, Path("/group"), ROOT)
    assert words[0] == "/bin/sh"
    assert words[3] == "/group"


def test_a_home_is_bound_where_there_is_one():
    tree = ContainerTree("work", ("gedit",), Path("/r"), Path("/s"), home=Path("/h"))
    assert "--bind=/h:/home/user" in nspawn_args(tree, Path("/group"), ROOT)
    assert "--tmpfs=/home/user:mode=0700,size=25%" in nspawn_args(
        TREE, Path("/group"), ROOT
    )


def test_a_tree_has_the_time_zone_that_its_record_chooses():
    words = nspawn_args(replace(TREE, variables={"TZ": "CET-1"}), Path("/group"), ROOT)
    assert "--setenv=TZ=CET-1" in words
    assert "TZ" not in str(nspawn_args(TREE, Path("/group"), ROOT))


def test_a_tree_has_an_x_server_only_if_it_is_asked_for():
    words = nspawn_args(replace(TREE, x11=True), Path("/group"), ROOT)
    assert words[-4:] == ["/run/vitrail/vitrail-x11", "--", "gedit", "a b"]
    assert "--setenv=GDK_BACKEND=wayland,x11" in words
    assert "vitrail-x11" not in str(nspawn_args(TREE, Path("/group"), ROOT))


def test_a_tree_ends_first_where_memory_ends():
    assert "--oom-score-adjust=1000" in nspawn_args(TREE, Path("/group"), ROOT)
