"""``launch.host_files``: the files that are read here, and the guest agent's use of them."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from broker.core import limits
from broker.core.errors import SetupError
from broker.host.images.host_files import HostFiles, collect
from broker.host.images.launch_files import fingerprint, host_settings
from shims.bundle import guest_agent, with_constants
from shims.guest.host_files import unpack_host_files

BUNDLE = "etc/ssl/certs/ca-certificates.crt"
ADDED = "usr/local/share/ca-certificates"
KEY = "-----BEGIN PRIVATE KEY-----\nTUlJRXZR\n-----END PRIVATE KEY-----\n"


def pem(text):
    """A certificate as far as its frame goes."""
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"


def der():
    """A certificate of OpenSSL's own form, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "company")])
    since = datetime(2026, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, since, since)
    encoding, kind = serialization.Encoding.DER, serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    return (
        made.sign(key, hashes.SHA256()).public_bytes(encoding),
        key.private_bytes(encoding, kind, plain),
    )


@pytest.fixture
def machine(tmp_path) -> Path:
    """A machine with a bundle of roots, one of them its own, and a compiled locale."""
    root = tmp_path / "machine"
    for name, text in {
        BUNDLE: pem("bundle"),
        "etc/ssl/certs/0a775a30.0": pem("hash"),
        "etc/ssl/certs/README": "no root",
        "usr/local/share/ca-certificates/company.crt": pem("company"),
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
        BUNDLE: pem("bundle").encode(),
        "etc/ssl/certs/0a775a30.0": pem("hash").encode(),
        f"{ADDED}/company.crt": pem("company").encode(),
    }
    guest = tmp_path / "guest"
    policies = guest / "etc/firefox/policies/policies.json"
    for path in (guest / "etc/ssl/certs/distrusted.0", policies):
        path.parent.mkdir(parents=True)
        path.write_text('{"policies": {"DisableTelemetry": true}}')
    unpack_host_files(found.settings()["LAUNCH_FILES"], str(guest))
    assert (guest / BUNDLE).read_text() == pem("bundle")
    assert not (guest / "etc/ssl/certs/distrusted.0").exists()
    assert json.loads(policies.read_text())["policies"] == {
        "DisableTelemetry": True,
        "Certificates": {"Install": ["/usr/local/share/ca-certificates/company.crt"]},
    }


async def test_a_private_key_beside_a_certificate_stays_here(machine):
    """Programs that make a root (mitmproxy, mkcert) write its key next to it."""
    certificate, key = der()
    added = machine / ADDED
    (added / "both.pem").write_text(f"Subject: x\n{KEY}{pem('one')}{KEY}{pem('two')}")
    (added / "rootCA-key.pem").write_text(KEY)
    (added / "der.crt").write_bytes(certificate)
    (added / "key.crt").write_bytes(key)
    (added / "trailing.crt").write_bytes(certificate + key)
    (machine / "etc/ssl/certs/11111111.0").symlink_to(added / "both.pem")
    (machine / "etc/ssl/certs/22222222.0").symlink_to(added / "rootCA-key.pem")
    found = (await collect(["certificates"], root=machine)).files
    both = (pem("one") + pem("two")).encode()
    assert found.pop(f"{ADDED}/both.pem.crt") == both
    assert found.pop("etc/ssl/certs/11111111.0") == both
    assert found.pop(f"{ADDED}/der.crt") == certificate
    kept = {BUNDLE, "etc/ssl/certs/0a775a30.0", f"{ADDED}/company.crt"}
    assert set(found) == kept


async def test_roots_of_equal_names_are_all_taken(machine):
    for name in ("a", "b"):
        (machine / ADDED / name).mkdir()
        (machine / ADDED / name / "root.crt").write_text(pem(name))
    (machine / ADDED / "company.pem").write_text(pem("other"))
    found = (await collect(["certificates"], root=machine)).files
    assert {Path(name).name for name in found if name.startswith(ADDED)} == {
        *("a-root.crt", "b-root.crt", "company.crt", "company.pem.crt")
    }


async def test_a_file_with_a_long_name_is_taken(machine, tmp_path):
    name = f"{ADDED}/{'x' * 200}.crt"
    (machine / name).write_text(pem("long"))
    found = await collect(["certificates"], root=machine)
    guest = tmp_path / "guest"
    unpack_host_files(found.settings()["LAUNCH_FILES"], str(guest))
    assert (guest / name).read_text() == pem("long")


async def test_a_bundle_without_certificates_is_refused(machine):
    (machine / BUNDLE).write_text(KEY)
    with pytest.raises(SetupError, match="cannot find the root certificates"):
        await collect(["certificates"], root=machine)


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
async def test_a_locale_that_is_not_utf8_is_refused(machine, lang):
    with pytest.raises(SetupError, match="is not the name of a UTF-8 locale"):
        await collect(["locale"], root=machine, environ={"LANG": lang})


@pytest.mark.skipif(not shutil.which("localedef"), reason="no localedef")
async def test_a_locale_without_sources_is_named(machine):
    with pytest.raises(SetupError, match="zz_ZZ") as refused:
        await collect(["locale"], root=machine, environ={"LANG": "zz_ZZ.UTF-8"})
    assert "locales" in refused.value.hint


async def test_without_certificates_it_is_refused(tmp_path):
    with pytest.raises(SetupError, match="cannot find the root certificates"):
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
    with pytest.raises(SetupError, match="the limit for a guest"):
        await collect(["certificates"], root=machine)


def test_equal_files_are_equal_settings_and_others_are_not():
    """By which a parent of a booted machine is known to be current."""
    one, same, other = (HostFiles({"a/b": text}) for text in (b"1", b"1", b"2"))
    assert one.settings() == same.settings()
    assert fingerprint(one.settings()) == fingerprint(same.settings())
    assert fingerprint(one.settings()) != fingerprint(other.settings())
    assert fingerprint({}) == ""


async def test_nothing_is_read_for_a_record_without_them():
    assert await host_settings(()) == {}


def test_the_agent_takes_megabytes():
    """Fonts are in one line of its source."""
    settings = HostFiles({"big": os.urandom(6 << 20)}, "xx_YY.UTF-8").settings()
    text = with_constants(guest_agent().decode(), settings)
    compile(text, "agent", "exec")


def test_a_damaged_archive_leaves_the_guest_as_it_is(tmp_path, capfd):
    unpack_host_files("bm8gYXJjaGl2ZQ==", str(tmp_path))
    assert "files of the host" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


async def test_a_process_of_its_own_reads_them(monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    assert (await host_settings(["locale"]))["LAUNCH_LANG"] == "C.UTF-8"
    monkeypatch.setenv("LC_ALL", "de_DE")
    with pytest.raises(SetupError, match="'de_DE' is not the name") as refused:
        await host_settings(["locale"])
    assert "set to a UTF-8 locale" in refused.value.hint
