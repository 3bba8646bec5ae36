"""Names of objects: kept, hashed with a key, or dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.authority.audit.names import Names
from broker.authority.audit.names_key import load_namer
from broker.authority.audit.settings import (
    AuditMode,
    AuditSettings,
    load_settings,
    take_span,
)
from broker.authority.audit.store import open_store
from broker.core.errors import SetupError
from broker.ipc.audit import schema
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log

URL = "https://bank.example/account/4711"


async def recorded(path: Path, names: Names) -> dict[str, object]:
    async with open_store(path, settings=AuditSettings(names=names)) as store:
        event = schema.TransferBegin(
            transfer=1, target="mail", object=URL, argument="x"
        )
        number = await store.record(event)
    with open_log(path) as log:
        (found,) = log.find(Filters(), after=number - 1)
    return found.fields()


async def test_what_each_setting_does(tmp_path: Path) -> None:
    path = tmp_path / "a" / "audit.sqlite"
    kept = await recorded(path, Names.KEEP)
    assert (kept["object"], kept["argument"]) == (URL, "x")
    hashed = await recorded(path, Names.HASH)
    assert str(hashed["object"]).startswith("hmac:")
    assert hashed["object"] != hashed["argument"]
    namer = load_namer(Names.HASH, path)
    assert hashed["object"] == namer.digest(URL.encode())
    dropped = await recorded(path, Names.DROP)
    assert (dropped["object"], dropped["argument"]) == ("(dropped)", "(dropped)")


async def test_two_logs_hash_with_keys_of_their_own(tmp_path: Path) -> None:
    one = await recorded(tmp_path / "a" / "audit.sqlite", Names.HASH)
    two = await recorded(tmp_path / "b" / "audit.sqlite", Names.HASH)
    again = await recorded(tmp_path / "a" / "audit.sqlite", Names.HASH)
    assert one["object"] == again["object"] != two["object"]
    for file in (tmp_path / "a").iterdir():
        assert URL.encode() not in file.read_bytes()


def test_content_has_no_hash_unless_asked_for(tmp_path: Path) -> None:
    log = tmp_path / "audit.sqlite"
    assert load_namer(Names.HASH, log).content_digest(b"1234") == ""
    asked = load_namer(Names.KEEP, log, clipboard_digest=True)
    assert asked.content_digest(b"1234") == asked.digest(b"1234") != ""


def test_a_key_file_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "audit.names").write_bytes(b"short")
    with pytest.raises(SetupError, match="not the key"):
        load_namer(Names.HASH, tmp_path / "audit.sqlite")


def test_settings(tmp_path: Path) -> None:
    assert load_settings([tmp_path]) == AuditSettings()
    file = tmp_path / "audit.toml"
    file.write_text('mode = "best-effort"\nnames = "drop"\nkeep = "90d"\n')
    found = load_settings([tmp_path / "nowhere", tmp_path])
    assert (found.mode, found.names) == (AuditMode.BEST_EFFORT, Names.DROP)
    assert found.keep_seconds == 90 * 86400
    assert AuditSettings().keep_seconds is None


@pytest.mark.parametrize(
    "text",
    [
        'mode = "sometimes"',
        "colour = 1",
        'keep = "90"',
        "max_megabytes = 7",
        "x",
        "\xff",
    ],
)
def test_a_setting_that_is_none_is_refused_with_its_file(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "audit.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(SetupError, match=r"audit\.toml") as caught:
        load_settings([tmp_path])
    assert "clipboard_digest" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "seconds"), [("36h", 129600), ("12w", 7257600), ("1y", 31536000)]
)
def test_spans(text: str, seconds: int) -> None:
    assert take_span(text) == seconds
