"""``launch.host_files``: what is read here, and what the guest's agent makes of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from broker.core import limits
from broker.core.errors import SetupError
from broker.launch.image import host_files
from broker.launch.image.host_files import HostFiles, collect, fingerprint
from shims.bundle import guest_agent, with_constants
from shims.guest.host_files import unpack_host_files

BUNDLE = "etc/ssl/certs/ca-certificates.crt"


@pytest.fixture
def machine(tmp_path) -> Path:
    """A machine with a bundle of roots, one of them its own, and a compiled locale."""
    root = tmp_path / "machine"
    for name, text in {
        BUNDLE: "bundle",
        "etc/ssl/certs/0a775a30.0": "by hash",
        "etc/ssl/certs/README": "no root",
        "usr/local/share/ca-certificates/company.crt": "company",
        "usr/local/share/ca-certificates/notes.txt": "no root",
        "usr/lib/locale/xx_YY.utf8/LC_TIME": "times",
        "usr/lib/locale/xx_YY.utf8/LC_MESSAGES/SYS_LC_MESSAGES": "messages",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


async def test_certificates_take_the_place_of_the_image_s(machine, tmp_path):
    found = await collect(["certificates"], root=machine)
    assert found.files == {
        BUNDLE: b"bundle",
        "etc/ssl/certs/0a775a30.0": b"by hash",
        "usr/local/share/ca-certificates/company.crt": b"company",
    }
    guest = tmp_path / "guest"
    policies = guest / "etc/firefox/policies/policies.json"
    for path in (guest / "etc/ssl/certs/distrusted.0", policies):
        path.parent.mkdir(parents=True)
        path.write_text('{"policies": {"DisableTelemetry": true}}')
    unpack_host_files(found.settings()["LAUNCH_FILES"], str(guest))
    assert (guest / BUNDLE).read_text() == "bundle"
    assert not (guest / "etc/ssl/certs/distrusted.0").exists()
    assert json.loads(policies.read_text())["policies"] == {
        "DisableTelemetry": True,
        "Certificates": {"Install": ["/usr/local/share/ca-certificates/company.crt"]},
    }


async def test_other_files_leave_the_image_s_certificates(machine, tmp_path):
    found = await collect(["locale"], root=machine, environ={"LANG": "xx_YY.UTF-8"})
    kept = tmp_path / "guest" / "etc/ssl/certs/kept.0"
    kept.parent.mkdir(parents=True)
    kept.write_text("kept")
    unpack_host_files(found.settings()["LAUNCH_FILES"], str(tmp_path / "guest"))
    assert kept.exists()
    made = tmp_path / "guest/usr/lib/locale/xx_YY.utf8"
    assert (made / "LC_MESSAGES/SYS_LC_MESSAGES").read_text() == "messages"


@pytest.mark.parametrize(
    ("environ", "lang", "files"),
    [
        ({}, "C.UTF-8", 0),
        ({"LANG": "C"}, "C.UTF-8", 0),
        ({"LANG": "xx_YY.UTF-8"}, "xx_YY.UTF-8", 2),
        ({"LANG": "C", "LC_ALL": "xx_YY.utf8"}, "xx_YY.utf8", 2),
        ({"LANG": "", "LC_CTYPE": "xx_YY.UTF-8"}, "xx_YY.UTF-8", 2),
    ],
)
async def test_the_locale_is_that_of_the_session(machine, environ, lang, files):
    found = await collect(["locale"], root=machine, environ=environ)
    assert (found.lang, len(found.files)) == (lang, files)
    assert found.settings()["LAUNCH_LANG"] == lang


@pytest.mark.parametrize(
    "lang",
    ["de_DE", "de_DE.ISO-8859-1", "../../etc.UTF-8", "de_DE.UTF-8/x", "-i.UTF-8"],
)
async def test_what_is_no_locale_in_utf8_is_refused(machine, lang):
    with pytest.raises(SetupError, match="is not the name of a locale"):
        await collect(["locale"], root=machine, environ={"LANG": lang})


@pytest.mark.skipif(not shutil.which("localedef"), reason="no localedef")
async def test_a_locale_without_sources_is_named(machine):
    with pytest.raises(SetupError, match="zz_ZZ") as refused:
        await collect(["locale"], root=machine, environ={"LANG": "zz_ZZ.UTF-8"})
    assert "locales" in refused.value.hint


async def test_without_certificates_it_is_refused(tmp_path):
    with pytest.raises(SetupError, match="no root certificates"):
        await collect(["certificates"], root=tmp_path)


@pytest.mark.skipif(not shutil.which("fc-match"), reason="no fontconfig")
async def test_the_fonts_are_those_that_fontconfig_chooses():
    found = await collect(["fonts"])
    aliases = found.files.pop("etc/fonts/conf.d/50-vitrail-host.conf").decode()
    assert aliases.count("<alias ") == 4
    assert found.files
    for name, content in found.files.items():
        assert name.startswith("usr/local/share/fonts/host/")
        assert content


async def test_the_files_have_a_limit(machine, monkeypatch):
    size = sum(map(len, (await collect(["certificates"], root=machine)).files.values()))
    monkeypatch.setattr(limits, "HOST_FILES_BYTES", size)
    await collect(["certificates"], root=machine)
    monkeypatch.setattr(limits, "HOST_FILES_BYTES", size - 1)
    with pytest.raises(SetupError, match="at most"):
        await collect(["certificates"], root=machine)


def test_equal_files_are_equal_settings_and_others_are_not():
    """By which a template of a booted machine is known to be current."""
    one, same, other = (HostFiles({"a/b": text}) for text in (b"1", b"1", b"2"))
    assert one.settings() == same.settings()
    assert fingerprint(one.settings()) == fingerprint(same.settings())
    assert fingerprint(one.settings()) != fingerprint(other.settings())
    assert fingerprint({}) == ""


async def test_nothing_is_read_for_a_record_without_them():
    assert await host_files.host_settings(()) == {}


def test_the_agent_takes_megabytes():
    """Fonts are in one line of its source."""
    settings = HostFiles({"big": os.urandom(6 << 20)}, "xx_YY.UTF-8").settings()
    text = with_constants(guest_agent().decode(), settings)
    compile(text, "agent", "exec")


def test_a_damaged_archive_leaves_the_guest_as_it_is(tmp_path, capfd):
    unpack_host_files("bm8gYXJjaGl2ZQ==", str(tmp_path))
    assert "files of the host" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
