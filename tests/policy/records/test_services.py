"""``[services.NAME]`` of a record, and the files of the user's own desktop."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.limits import transfer as broker_limits
from policy import limits
from policy.records.model import CalledService
from policy.services.desktop import parse_service
from policy.tools.record_files import parse_record

RECORD = 'class = "persistent"\n'


def parse(text):
    return parse_record("vault", Path("vault.toml"), (RECORD + text).encode())


def test_a_service_with_all_keys_and_with_none_but_its_command():
    record, problems = parse(
        '[services.backup]\ncommand = ["restic", "-q"]\nuser = "root"\n'
        'working_directory = "/srv"\nconcurrent = 2\n'
        '[services."test.Gpg"]\ncommand = ["gpg"]\n'
    )
    assert problems == []
    assert record.viewer.services == (
        CalledService("backup", ("restic", "-q"), "root", "/srv", 2),
        CalledService("test.Gpg", ("gpg",), "", "", 16),
    )
    other, _ = parse('[services.backup]\ncommand = ["restic"]\n')
    assert other.digest != record.digest


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("services = 1", 2, 12, "1 is not allowed"),
        ("[services]\nx = 1", 3, 5, "a service must be a table"),
        ('[services."a/b"]\ncommand = ["x"]', 2, 2, '"a/b"'),
        ('[services.".x"]\ncommand = ["x"]', 2, 2, '".x"'),
        ('[services."vitrail.Call"]\ncommand = ["x"]', 2, 2, '"vitrail.Call"'),
        ('[services."VITRAIL.x"]\ncommand = ["x"]', 2, 2, '"VITRAIL.x"'),
        (f'[services.{"e" * 65}]\ncommand = ["x"]', 2, 2, '"eee'),
        ("[services.x]", 2, 2, "'command' is missing"),
        ('[services.x]\ncomand = ["x"]\ncommand = ["y"]', 3, 10, "unknown key"),
        ("[services.x]\ncommand = []", 3, 11, "an array"),
        ('[services.x]\ncommand = ["x"]\nuser = "a b"', 4, 8, '"a b"'),
        ('[services.x]\ncommand = ["x"]\nuser = "-u"', 4, 8, '"-u"'),
        ('[services.x]\ncommand = ["x"]\nworking_directory = "y"', 4, 21, '"y"'),
        ('[services.x]\ncommand = ["x"]\nconcurrent = 65', 4, 14, "65"),
    ],
)
def test_a_mistake_has_its_place(text, line, column, message):
    record, problems = parse(text)
    assert record is None
    found = {(one.span.line, one.span.column): one.message for one in problems}
    assert message in found[line, column]


def test_a_record_has_no_more_services_than_the_limit():
    def table(count):
        return "".join(
            f'[services.s{number}]\ncommand = ["x"]\n' for number in range(count)
        )

    assert parse(table(limits.SERVICES))[0] is not None
    assert parse(table(limits.SERVICES + 1))[0] is None


def test_a_command_crosses_to_the_guest():
    assert limits.SERVICE_COMMAND_BYTES == broker_limits.CALL_COMMAND_BYTES
    most = "x" * (limits.SERVICE_COMMAND_BYTES // 2 - 1)
    assert parse(f'[services.x]\ncommand = ["{most}",\n"{most}"]')[0] is not None
    assert parse(f'[services.x]\ncommand = ["{most}",\n"{most}x"]')[0] is None


def test_a_service_of_the_desktop_has_nothing_by_default():
    service, problems = parse_service(Path("x.toml"), b'command = ["x"]\n')
    assert problems == []
    assert (service.read, service.write, service.network) == ((), (), False)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('command = ["x"]\nuser = "root"', "x.toml:2:8"),
        ('command = ["x"]\nread = "/etc"', "x.toml:2:8"),
        ('command = ["x"]\nread = ["~/x"]', "x.toml:2:9"),
        ('command = ["x"]\nnetwork = 1', "x.toml:2:11"),
        ('command = ["x"', "x.toml:1:11"),
        ("read = []", "x.toml:1:1"),
    ],
)
def test_a_mistake_in_a_service_of_the_desktop_has_its_place(text, where):
    service, problems = parse_service(Path("x.toml"), text.encode())
    assert service is None
    assert problems[0].where == where


def test_directories_between_are_mount_points_of_a_desktop_service():
    text = 'command = ["x"]\nread = ["/p/a/hooks"]\nwrite = ["/p"]\n'
    service, problems = parse_service(Path("x.toml"), text.encode())
    assert problems == []
    assert service.write == (Path("/p"), Path("/p/a"))
