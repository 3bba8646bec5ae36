"""ship.toml: its keys, and the messages for its mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.errors import SetupError
from broker.core.limits import audit as audit_limits
from broker.helpers.shipper.config import (
    JournaldTarget,
    JsonlTarget,
    OtlpTarget,
    PostgresTarget,
    load_config,
)
from broker.helpers.shipper.state import find_config

GOOD = """
machine = "desk-7"
[[target]]
name = "fleet"
to = "postgresql"
address = "postgresql://u@db.example/audit"
[[target]]
name = "otel"
to = "otlp"
endpoint = "https://c.example:4318/v1/logs"
[[target]]
name = "journal"
to = "journald"
[[target]]
name = "file"
to = "jsonl"
path = "/x.jsonl"
"""


def written(directory: Path, text: str) -> Path:
    path = directory / "ship.toml"
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_all_kinds(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, GOOD))
    assert config.called() == "desk-7"
    kinds = [PostgresTarget, OtlpTarget, JournaldTarget, JsonlTarget]
    assert [type(target) for target in config.target] == kinds
    assert [target.where() for target in config.target] == [
        "postgresql db.example/audit",
        "otlp https://c.example",
        "journald",
        "file /x.jsonl",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[target]]\nname = 'X'\nto = 'journald'", "not a name"),
        ("[[target]]\nname = ''\nto = 'journald'", "not a name"),
        ("[[target]]\nname = 'a/b'\nto = 'journald'", "not a name"),
        (f"[[target]]\nname = '{'a' * 33}'\nto = 'journald'", "not a name"),
        ("[[target]]\nname = 'a'\nto = 'journald'\n" * 2, "two targets"),
        ("[[target]]\nname = 'a'\nto = 'moon'", "moon"),
        ("[[target]]\nname = 'a'\nto = 'journald'\nplanet = 1", "planet"),
        ("[[target]]\nname = 'a'\nto = 'jsonl'", "path"),
        ("[[target]]\nto = 'journald'", "name"),
        ("targets = []", "targets"),
        ('machine = "a\\nb"', "machine"),
        ("machine = 1", "machine"),
        ("[[target]]\nname = 'a'\nto = 'otlp'\nendpoint = 'https://[x/'", "address"),
        (
            "[[target]]\nname = 'a'\nto = 'postgresql'\naddress = 'postgresql://[x/d'",
            "address",
        ),
        ("= 1", "ship.toml"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SetupError) as caught:
        load_config(written(tmp_path, text))
    assert said in str(caught.value)
    assert "ship.toml" in str(caught.value)


def test_as_many_targets_as_there_may_be(tmp_path: Path) -> None:
    one = "[[target]]\nname = 'a{}'\nto = 'journald'\n"
    many = [one.format(n) for n in range(audit_limits.SHIP_TARGETS + 1)]
    load_config(written(tmp_path, "".join(many[:-1])))
    with pytest.raises(SetupError, match="at most"):
        load_config(written(tmp_path, "".join(many)))


@pytest.mark.parametrize(
    "line",
    [
        "to = 'postgresql'\naddress = 'postgresql://u:secret@h/d'",
        "to = 'postgresql'\naddress = 'host=h password=secret'",
        "to = 'postgresql'\naddress = 'host=h password = a://secret'",
        "to = 'postgresql'\naddress = 'postgresql://h/d?password=secret'",
        "to = 'otlp'\nendpoint = 'https://u:secret@h/'",
        "to = 'otlp'\nendpoint = 'https://h/'\nheaders = { A = 'secret' }",
    ],
)
def test_a_secret_must_not_be_readable_by_others_and_is_not_shown(
    tmp_path: Path, line: str
) -> None:
    path = written(tmp_path, f"[[target]]\nname = 'a'\n{line}\n")
    with pytest.raises(SetupError, match="readable by others"):
        load_config(path)
    path.chmod(0o600)
    (target,) = load_config(path).target
    assert "secret" not in target.where()


def test_the_first_file_holds(tmp_path: Path) -> None:
    assert find_config([tmp_path / "a", tmp_path]) is None
    path = written(tmp_path, "")
    assert find_config([tmp_path / "a", tmp_path]) == path
    assert load_config(path).target == []
