"""``[[mounts]]`` and ``[[disks]]`` of a record."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy.records.mounts.user_files import Disk, Mount
from policy.records.places import folder_places
from policy.tools.record_files import parse_record

RECORD = 'class = "persistent"\n'
MEMORY = '[[mounts]]\nkind = "memory"\nat = "{}"\nsize = "1M"\n'
DISK = '[[disks]]\ntag = "{}"\nsource = "/srv/a.img"\n'
OTHER = '[[mounts]]\nkind = "directory"\nat = "/srv/{}"\nsource = "{}"\n'
BOX = '[launch]\nkind = "bwrap"\n'


def parse(text):
    return parse_record("work", Path("work.toml"), (RECORD + text).encode())


def problem(text):
    record, (found,) = parse(text)
    assert record is None
    return found


def test_mounts_are_folders_and_file_systems_in_memory():
    text = MEMORY.format("/srv/scratch") + (
        '[[mounts]]\nkind = "directory"\nat = "/srv/paper"\nsource = "/home/ada/paper"\n'
        'write = true\n[folders]\nread_only = ["/home/ada/docs"]\n'
    )
    record, problems = parse(text)
    assert problems == []
    folders = record.viewer.folders
    assert folders.memory == (
        Mount("memory", Path("/srv/scratch"), 1 << 20, None, False),
    )
    assert folders.read_only == (Path("/home/ada/docs"),)
    assert folders.read_write == (Path("/home/ada/paper"),)
    assert folders.at(Path("/home/ada/paper"), write=True) == Path("/srv/paper")
    assert folders.at(Path("/home/ada/paper"), write=False) is None
    assert folders.at(Path("/home/ada/docs"), write=False) is None
    # Each has a virtiofsd in a micro VM.
    assert folder_places(record) == 2
    box, problems = parse(BOX + MEMORY.format("/srv/scratch"))
    assert problems == []
    assert box.host.launch.mounts == folders.memory
    other, _ = parse(text.replace("/srv/paper", "/srv/other"))
    assert other.digest != record.digest


def test_disks_are_read_only_unless_the_record_says_otherwise():
    record, problems = parse(
        DISK.format("a") + DISK.format("b.2") + 'write = true\nat = "/x"\n'
    )
    assert problems == []
    image = Path("/srv/a.img")
    assert record.viewer.folders.disks == (
        Disk("a", image, False, None),
        Disk("b.2", image, True, Path("/x")),
    )
    assert record.host.launch.disks == 2


@pytest.mark.parametrize(
    "tag",
    [
        "",
        "a/b",
        "../a",
        "..",
        ".a",
        "a\\nb",
        "a\\u0000",
        "A",
        "a b",
        "ü",
        "a" * 21,
        "vitrail-home",
        "vitrail",
    ],
)
def test_a_tag_that_is_no_name_is_refused(tag):
    found = problem(DISK.format(tag))
    assert found.expected.startswith("1 to 20 characters"), found
    assert (found.span.line, found.span.column) == (3, 7)


def test_two_disks_have_two_tags():
    found = problem(DISK.format("a") + DISK.format("a"))
    assert "is the tag of another disk" in found.message
    assert found.span.line == 6


@pytest.mark.parametrize(
    "at",
    [
        "/",
        "srv",
        "/etc",
        "/etc/ssl",
        "/run/vitrail",
        "/folders/x",
        "/proc/self",
        "/dev/x",
        "/sys",
        "/usr/lib",
        "/lib64",
        "/home",
        "/home/user",
        "/tmp",
        "/srv/../etc",
        "//etc",
        "/./etc",
        "/srv/",
        "/srv/a:b",
        "/srv/a,b",
        "/srv/a\\\\b",
        "/srv/a\\nb",
    ],
)
def test_nothing_is_mounted_over_the_system_or_ours(at):
    for text in (MEMORY.format(at), DISK.format("a") + f'at = "{at}"\n'):
        assert problem(text).expected.startswith("an absolute path in the sandbox")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mounts = 3\n", "3 is not allowed"),
        ("[mounts]\nx = 1\n", "a table is not allowed"),
        ('[[mounts]]\nkind = "ram"\nat = "/x"\n', '"ram" is not allowed'),
        ('[[mounts]]\nkind = "memory"\nat = "/x"\n', "'size' is missing"),
        ('[[mounts]]\nkind = "directory"\nat = "/x"\n', "'source' is missing"),
        (MEMORY.format("/x") + "write = true\n", "'write' has no meaning here"),
        (MEMORY.format("/x") + 'source = "/y"\n', "'source' has no meaning here"),
        (MEMORY.format("/x").replace("1M", "1K"), '"1K" is not allowed'),
        (MEMORY.format("/x") * 2, "/x overlaps another mount"),
        (MEMORY.format("/x") + MEMORY.format("/x/y"), "/x/y overlaps another mount"),
        (MEMORY.format("/x") * 9, "an array is not allowed"),
        (
            (
                '[folders]\nread_only = ["/srv/a/paper"]\n[[mounts]]\nkind = "directory"\n'
                'at = "/x"\nsource = "/srv/b/paper"\n'
            ),
            "'paper' is the name of another folder",
        ),
        ("[[disks]]\n", "'tag' is missing"),
        (DISK.format("a") + 'format = "qcow2"\n', "unknown key 'format'"),
        ('[launch]\nfork = "shared"\n' + DISK.format("a"), "always boots"),
    ],
)
def test_a_wrong_table_is_explained(text, message):
    kept = "disposable" if "shared" in text else "persistent"
    record, found = parse_record(
        "work", Path("work.toml"), f'class = "{kept}"\n{text}'.encode()
    )
    assert record is None
    assert message in found[0].message


def test_no_mount_is_in_a_directory_of_the_users():
    bound = BOX + 'bind_read_write = ["/home/ada/paper"]\n'
    for at in ("/home/ada/paper/x", "/home/ada/paper", "/home/ada"):
        assert "overlap" in problem(bound + MEMORY.format(at)).message


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("bwrap", "this machine's would read the file system"),
        ("podman", "this machine's would read the file system"),
        ("libvirt-qemu", "those of libvirt or"),
        ("vmspawn", "or systemd-vmspawn"),
    ],
)
def test_other_kinds_have_no_disks(kind, why):
    found = problem(f'[launch]\nkind = "{kind}"\n' + DISK.format("a"))
    assert why in found.message
    assert found.hint.startswith('set kind = "microvm"')


def test_kinds_of_others_have_no_mounts():
    text = '[launch]\nkind = "external"\n[peer]\ncid = 7\n'
    assert "is not allowed" in problem(text + MEMORY.format("/x")).message


@pytest.mark.parametrize(
    ("read_only", "read_write", "between"),
    [
        ("/p/.git/hooks", "/p", ["/p/.git"]),
        ("/p/a/b/c", "/p /p/a/b", ["/p/a"]),
        ("/p/a/b/c/d /p/a", "/p", []),
        ("/p/a/b /p/a/c/d", "/p", ["/p/a", "/p/a/c"]),
        ("/p/a", "/p", []),
        ("/p/a/b", "/q", []),
        ("/p", "/p/a/b", []),
    ],
)
def test_directories_between_are_mount_points(read_only, read_write, between):
    keys = {"bind_read_only": read_only, "bind_read_write": read_write}
    text = "".join(f"{key} = {value.split()}\n" for key, value in keys.items())
    record, problems = parse(BOX + text)
    assert problems == []
    launch = record.host.launch
    paths = read_write.split()
    assert [*map(str, launch.read_write)] == [*paths, *between]


@pytest.mark.parametrize(
    "text",
    [
        '[folders]\nread_write = ["/p"]\nread_only = ["/p/.git"]\n',
        BOX + 'bind_read_write = ["/p"]\n[folders]\nread_only = ["/p/a/b"]\n',
        '[folders]\nread_only = ["/p/a"]\n'
        + OTHER.format("p", "/p")
        + "write = true\n",
        '[folders]\nread_write = ["/p"]\n' + OTHER.format("a", "/p/a"),
    ],
)
def test_folder_to_read_refused_in_folder_to_change(text):
    assert "to which it may write" in problem(text).message


def test_folder_to_change_allowed_in_folder_to_read():
    record, problems = parse(
        '[folders]\nread_only = ["/p"]\nread_write = ["/p/drafts"]\n'
    )
    assert problems == []
    assert record is not None
