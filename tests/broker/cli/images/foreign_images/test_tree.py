"""Layers merged as names: whiteouts, links, and what no honest tool writes."""

from __future__ import annotations

import io
import tarfile
from collections import Counter

import pytest

from broker.cli.images.foreign_images.furnish import (
    MissingError,
    furnish,
    versions,
    write,
)
from broker.cli.images.foreign_images.layers import apply_layer, write_tree
from broker.cli.images.foreign_images.tree import (
    DEPTH,
    FileTree,
    Node,
    TreeError,
    parts_of,
)

LIMIT = 1 << 20


def member(name, kind=tarfile.REGTYPE, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def link(name, target):
    return member(name, tarfile.SYMTYPE, linkname=target)


def directory(name, **fields):
    return member(name, tarfile.DIRTYPE, **fields)


def layer(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    out.seek(0)
    return tarfile.open(fileobj=out, mode="r:")


def merged(*layers, limit=LIMIT):
    tree, dropped = FileTree(limit), Counter()
    for members in layers:
        apply_layer(tree, layer(*members), dropped)
    tree.dropped = dropped
    return tree


def content(tree, name):
    return tree.read(name, LIMIT)


def names(tree):
    return [name for name, _ in tree.entries()]


def test_a_later_layer_wins_and_whiteouts_hide_lower_layers_only():
    tree = merged(
        [member("etc/a", data=b"old"), member("etc/b"), member("opt/x/y")],
        # The opaque mark is after the file that it does not hide.
        [member("./etc/a", data=b"new"), member("etc/.wh.b"), member("opt/x/z"),
         member("opt/x/.wh..wh..opq"), member("opt/.wh..wh.plnk")],
    )  # fmt: skip
    assert names(tree) == ["etc", "etc/a", "opt", "opt/x", "opt/x/z"]
    assert content(tree, "etc/a") == b"new"


def test_names_below_a_link_go_where_it_leads_inside_the_tree():
    tree = merged(
        [directory("usr/lib"), link("lib", "usr/lib"), link("out", "../../../etc")],
        [member("lib/x", data=b"1"), directory("etc"), member("out/y", data=b"2")],
    )
    assert content(tree, "usr/lib/x") == b"1"
    assert content(tree, "etc/y") == b"2"
    assert tree.root.children["lib"].kind == "link"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/..", "/../etc/passwd"])
def test_a_name_with_dots_is_refused(name):
    with pytest.raises(TreeError, match=r"'\.\.'"):
        merged([member(name)])
    assert parts_of("/a//./b/") == ("a", "b"), "an absolute name is below the root"


@pytest.mark.parametrize("name", ["a" * 300, "/".join(["a"] * (DEPTH + 1)), "b/" * 3000 + "x"])  # fmt: skip
def test_a_name_that_linux_has_no_room_for_is_refused(name):
    with pytest.raises(TreeError, match="too long"):
        merged([member(name)])


def test_links_in_a_circle_end():
    with pytest.raises(TreeError, match="a loop of symbolic links"):
        merged([link("a", "b"), link("b", "a"), member("a/x")])


def test_a_link_to_itself_through_a_directory_ends():
    with pytest.raises(
        TreeError, match=r"loop of symbolic links|parent is not a directory"
    ):
        merged([link("a", "a/b"), member("a/x")])


def test_a_link_that_leads_nowhere_is_not_written_through():
    with pytest.raises(TreeError, match="not a directory"):
        merged([link("a", "/nowhere"), member("a/x")])


def test_devices_and_pipes_are_left_out():
    tree = merged(
        [member("dev/sda", tarfile.BLKTYPE), member("null", tarfile.CHRTYPE),
         member("pipe", tarfile.FIFOTYPE), member("kept")],
    )  # fmt: skip
    assert names(tree) == ["kept"]
    assert tree.dropped == {"devices": 3}


def test_hard_links_are_to_files_of_the_tree():
    tree = merged([member("a", data=b"x"), member("b", tarfile.LNKTYPE, linkname="a")])
    assert tree.find("a") is tree.find("b")
    for target in ("missing", "../../etc/shadow", "d"):
        bad = [directory("d"), member("b", tarfile.LNKTYPE, linkname=target)]
        with pytest.raises(TreeError):
            merged(bad)


def test_a_tree_has_limits(monkeypatch):
    with pytest.raises(TreeError, match=r"larger than \d+ MiB"):
        merged([member("a", data=bytes(LIMIT // 2)), member("b", data=bytes(LIMIT))])
    monkeypatch.setattr("broker.cli.images.foreign_images.tree.ENTRIES", 3)
    with pytest.raises(TreeError, match="more than 3 files"):
        merged([member("a/b/c/d")])


def test_a_hard_link_counts_as_a_name(monkeypatch):
    monkeypatch.setattr("broker.cli.images.foreign_images.tree.ENTRIES", 3)
    links = [member(str(n), tarfile.LNKTYPE, linkname="a") for n in range(4)]
    with pytest.raises(TreeError, match="more than 3 files"):
        merged([member("a"), *links])


def test_a_size_that_is_a_lie_ends_the_merge():
    """A header may claim any size: it is counted before a byte is read."""
    tree = FileTree(LIMIT)
    with pytest.raises(TreeError, match=r"larger than \d+ MiB"):
        tree.put("a", Node("file", size=1 << 60))
    with pytest.raises(TreeError, match=r"larger than \d+ MiB"):
        tree.put("a", Node("file", size=-1))


def test_the_written_tree_is_clean_and_reproducible():
    layers = (
        [directory("d", mode=0o2755, uid=12), member("d/f", data=b"x", mode=0o104755),
         link("l", "/d/f"), member("h", tarfile.LNKTYPE, linkname="d/f"),
         member("owner", uid=1 << 30, gid=70000)],
    )  # fmt: skip
    written = []
    for _ in range(2):
        out = io.BytesIO()
        assert write_tree(merged(*layers), out) == 5
        written.append(out.getvalue())
    assert written[0] == written[1]
    with tarfile.open(fileobj=io.BytesIO(written[0])) as archive:
        found = {info.name: info for info in archive}
        assert archive.extractfile("./d/f").read() == b"x"
    assert list(found) == ["./d", "./d/f", "./h", "./l", "./owner"]
    assert found["./d"].mode == 0o2755
    assert found["./d/f"].mode == 0o4755
    assert (found["./h"].type, found["./h"].linkname) == (tarfile.LNKTYPE, "./d/f")
    assert found["./l"].linkname == "/d/f"
    assert (found["./owner"].uid, found["./owner"].gid) == (65534, 65534)


def guest(*extra):
    return merged(
        [member("usr/bin/python3.11"), link("usr/bin/python3", "python3.11"),
         member("usr/bin/waypipe"), member("etc/passwd", data=b"root:x:0:0"), *extra],
    )  # fmt: skip


def test_a_guest_gets_agent_user_and_mount_points():
    tree = guest(link("etc/resolv.conf", "/run/x"), member("bin/bash"))
    furnish(tree, b"agent")
    assert content(tree, "usr/lib/vitrail/vitrail_guest.py") == b"agent"
    assert content(tree, "etc/passwd") == (
        b"root:x:0:0\nuser:x:1000:1000::/home/user:/bin/bash\n"
    )
    assert tree.find("home/user").uid == 1000
    assert tree.find("tmp").mode == 0o1777
    assert tree.find("etc/resolv.conf") is None
    furnish(tree, b"agent")
    assert content(tree, "etc/passwd").count(b"user:x") == 1


def test_a_home_that_is_there_becomes_the_users():
    """waypipe starts in it, and cannot where it is another's."""
    tree = guest(
        directory("home/user", mode=0o700, uid=7), member("home/user/.profile")
    )
    furnish(tree, b"")
    home = tree.find("home/user")
    assert (home.uid, home.gid, home.mode) == (1000, 1000, 0o700)
    assert tree.find("home/user/.profile") is not None


def test_a_python_elsewhere_gets_the_name_that_is_started():
    tree = merged([member("usr/local/bin/python3"), member("usr/bin/waypipe")])
    furnish(tree, b"")
    assert tree.find("usr/bin/python3") is tree.find("usr/local/bin/python3")


def test_an_image_without_python_says_so():
    with pytest.raises(MissingError, match=r"python3 and waypipe"):
        furnish(merged([member("bin/sh")]), b"")


def test_a_passwd_that_is_a_link_out_is_not_followed_out(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    tree = guest(link("etc/group", str(secret)))
    furnish(tree, b"")
    assert b"of the host" not in content(tree, "etc/group")
    assert secret.read_text() == "of the host"


def test_versions_are_those_of_dpkg():
    tree = guest()
    status = (
        b"Package: foot\nStatus: install ok installed\nVersion: 1.2\n\nPackage: x\n"
    )
    write(tree, "var/lib/dpkg/status", status)
    assert versions(tree) == {"foot": "1.2"}
    assert versions(guest()) == {}
