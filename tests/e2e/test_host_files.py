"""Fonts, locale and root certificates of the host, in a real machine."""

from __future__ import annotations

import os
import shutil
import ssl
from pathlib import Path

import pytest

from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.world import record, world

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not shutil.which("fc-match"), reason="no fontconfig"),
    requires("/etc/ssl/certs/ca-certificates.crt"),
]

_LOOK = """
import glob, locale, os, ssl
print(os.environ["LANG"], locale.setlocale(locale.LC_ALL, ""))
print(*sorted(map(os.path.basename, glob.glob("/usr/local/share/fonts/host/*"))))
print(ssl.create_default_context(cafile="/etc/ssl/certs/ca-certificates.crt").cert_store_stats()["x509_ca"])
"""


async def test_the_guest_has_the_files_that_its_record_names():
    """And the sandbox beside it, whose record names nothing, has none of it."""
    files = 'host_files = ["fonts", "locale", "certificates"]'
    records = {"with": record(launch=files), "bare": record()}
    async with world(records) as w:
        code, out = await w.output("with", "python3", "-c", _LOOK)
        assert code == 0, out
        lang, fonts, roots = out.decode().splitlines()
        assert lang.split()[0] == (os.environ.get("LANG") or "C.UTF-8")
        here = ssl.create_default_context(cafile="/etc/ssl/certs/ca-certificates.crt")
        assert int(roots) == here.cert_store_stats()["x509_ca"]
        assert fonts
        for name in fonts.split():
            assert [*Path("/").glob(f"usr/share/fonts/**/{name}")], name
        code, out = await w.output("bare", "python3", "-c", _LOOK)
        assert out.decode().splitlines()[1] == ""


async def test_a_program_has_the_locale_that_its_record_chooses_at_its_start():
    async with world({"work": record()}) as w:

        async def told(lang):
            _, out = await w.output("work", "sh", "-c", "echo $LANG")
            return out.decode() == f"{lang}\n"

        assert await told("C.UTF-8")
        w.write_record("work", record() + '[looks]\nlanguage = "POSIX"\n')
        await eventually(lambda: told("POSIX"))
        # One that the machine does not have.
        w.write_record("work", record() + '[looks]\nlanguage = "de_DE.UTF-8"\n')
        await eventually(lambda: told("C.UTF-8"))
