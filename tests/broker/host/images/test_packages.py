from __future__ import annotations

import pytest

from broker.core.distribution import parse_os_release
from broker.core.errors import SetupError
from broker.host.images.packages import Archive, read_archive

TARGETS = """\
Packages|http://other.example/apt/|cloud|main
DEP-11|http://mirror.example/debian/|bookworm|main
Packages|http://mirror.example/debian/|bookworm|main
Packages|http://mirror.example/debian/|bookworm|contrib
Packages|http://mirror.example/debian/|bookworm-updates|main
Packages|http://security.example/debian-security/|bookworm-security|main
"""
CONFIG = """\
APT "";
Acquire::AllowInsecureRepositories "1";
Acquire::Check-Valid-Until "false";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::http::Proxy::direct.example "DIRECT";
Acquire::https::Proxy "";
Acquire::Languages "none";
"""


def test_mirror_security_and_components_are_the_machine_s():
    archive = read_archive(TARGETS, "", "bookworm")
    assert archive.mirror == "http://mirror.example/debian"
    assert archive.security == "http://security.example/debian-security"
    assert archive.components == ("main", "contrib")


def test_only_options_that_concern_reaching_an_archive_are_kept():
    options = read_archive(TARGETS, CONFIG, "bookworm").options
    assert options == {
        "Acquire::Check-Valid-Until": "false",
        "Acquire::http::Proxy": "http://proxy.example:3128",
        "Acquire::http::Proxy::direct.example": "DIRECT",
    }


def test_suite_named_by_its_role_is_found():
    lines = "Packages|http://m.example/debian/|stable|main\n"
    assert read_archive(lines, "", "bookworm").mirror == "http://m.example/debian"


def test_machine_without_a_debian_archive_is_told():
    with pytest.raises(SetupError, match="no source") as caught:
        read_archive("Packages|http://u.example/ubuntu|noble|main\n", "", "")
    assert "--mirror" in caught.value.hint


def test_lines_of_a_stable_suite_have_updates_and_security():
    archive = Archive("http://m/d", "http://s/d", ("main",))
    assert archive.lines("trixie") == [
        "deb http://m/d trixie main",
        "deb http://m/d trixie-updates main",
        "deb http://s/d trixie-security main",
    ]


def test_lines_of_a_rolling_suite_have_neither():
    archive = Archive("http://m/d", "http://s/d", ("main",))
    assert archive.lines("sid") == ["deb http://m/d sid main"]


def test_codename():
    text = 'ID=debian\nVERSION_CODENAME="x"\n'
    assert parse_os_release(text).get("VERSION_CODENAME", "") == "x"
    assert parse_os_release("").get("VERSION_CODENAME", "") == ""
