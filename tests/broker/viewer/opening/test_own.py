"""The person's own programs and files, as a broker starts them."""

from __future__ import annotations

import json
import sys

import pytest

from broker.core.errors import UpstreamError
from broker.core.transfer.quota import Quota
from broker.core.transfer.urls import take_url
from broker.viewer.opening import own
from broker.viewer.opening.exchanges import Delivery
from broker.viewer.opening.own import LOOP, Own
from broker.viewer.opening.pipes import pipe

QUOTA = Quota(1 << 20, 1 << 20, 100)


def recorder(tmp_path, code=0):
    """A program that writes down how it was called."""
    script = tmp_path / "browser.py"
    script.write_text(
        "import json, os, sys\n"
        f"json.dump([sys.argv[1:], dict(os.environ)], open({str(tmp_path / 'called')!r}, 'w'))\n"
        f"sys.exit({code})\n"
    )
    return [sys.executable, str(script), "--"]


async def test_an_address_is_one_word_after_two_dashes(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_SECRET", "x")
    monkeypatch.setenv("LD_PRELOAD", "")
    await Own(tmp_path, recorder(tmp_path)).open_url(
        take_url("https://a.b/$(id) ".strip())
    )
    words, env = json.loads((tmp_path / "called").read_text())
    assert words == ["--", "https://a.b/$(id)"]
    assert "VITRAIL_SECRET" not in env
    assert "LD_PRELOAD" not in env
    assert env[LOOP] == "1"


async def test_a_program_that_fails_at_once_is_an_error(tmp_path):
    own = Own(tmp_path, recorder(tmp_path, code=3))
    with pytest.raises(UpstreamError, match="code 3"):
        await own.open_url(take_url("https://a.b/"))


async def test_the_persons_files_go_into_a_pipe_and_others_are_kept(tmp_path):
    """Both ends at once: the files sent here are stored here."""
    source = tmp_path / "d"
    source.mkdir()
    (source / "x").write_text("content")
    own = Own(tmp_path / "home")
    with pipe() as (read, write):
        delivery = Delivery("work", False, QUOTA, read.detach())
        async with own.storing(delivery), own.sending([str(source)], write):
            await delivery.done.wait()
    assert delivery.reason == ""
    assert (tmp_path / "home/Incoming/work/d/x").read_text() == "content"


async def test_a_cut_transfer_is_reported_and_leaves_nothing(tmp_path):
    own = Own(tmp_path / "home")
    with pipe() as (read, write):
        delivery = Delivery("work", False, QUOTA, read.detach())
        async with own.storing(delivery):
            write.close()
            await delivery.done.wait()
    assert delivery.reason == "the transfer was interrupted"
    assert list((tmp_path / "home/Incoming/work").iterdir()) == []


async def test_a_file_that_is_not_there_is_told(tmp_path):
    with pipe() as (_, write), pytest.RaisesGroup(UpstreamError):
        async with Own(tmp_path).sending([str(tmp_path / "absent")], write):
            from trio import sleep_forever

            await sleep_forever()


async def test_the_program_for_files_has_no_variable_of_the_session(monkeypatch):
    monkeypatch.setenv("TOKEN", "secret of the session")
    program = b"import os, sys; sys.stderr.write(' '.join(os.environ))"
    monkeypatch.setattr(own, "_files_tool", lambda: program)
    assert set((await own.run_tool([])).split()) <= {b"LC_ALL", b"PWD"}


async def test_a_name_in_another_script_is_kept_in_every_locale(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    source = tmp_path / "\N{GREEK SMALL LETTER LAMDA}"
    source.write_text("content")
    with pipe() as (read, write):
        delivery = Delivery("work", False, QUOTA, read.detach())
        sending = Own(tmp_path).sending([str(source)], write)
        async with Own(tmp_path / "home").storing(delivery), sending:
            await delivery.done.wait()
    kept = tmp_path / "home/Incoming/work" / source.name
    assert kept.read_text() == "content"
