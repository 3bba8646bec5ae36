"""Freeze the promises of a release: write ``tests/frozen/VERSION/``, once.

    python -m tests.frozen.make VERSION

A directory that exists is never written again: it is what that release promised.
"""

from __future__ import annotations

import enum
import json
import shutil
import sys
import tempfile
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from broker.authority.audit.store import open_store
from broker.ipc.audit import schema
from broker.ipc.audit.event import Event
from tests.frozen.present import (
    AUDIT,
    DATA,
    DOCUMENTS,
    INPUTS,
    INTERFACE,
    SOURCES,
    exit_codes,
    language,
    present,
    schema_texts,
)
from tests.frozen.running import running_documents
from tests.kit.audit.log import opened

STAMPED = {"version", "sequence", "time_ns", "boot", "monotonic_ns", "broker"}
"""Fields that the store writes."""
_PROVED = 11
"""Each event of this number has a proof among the files."""
_SEVERAL = (schema.Decision, schema.StreamOpened, schema.StreamClosed)
"""Kinds of one connection, which ``audit connections`` and ``trace`` show."""


def main() -> int:
    """Write the directory of a version; refuse one that exists."""
    (version,) = sys.argv[1:]
    directory = Path(__file__).with_name(version)
    if directory.exists():
        sys.stderr.write(f"{directory} exists: it is never written again\n")
        return 1
    directory.mkdir()
    freeze(directory)
    answered = trio.run(running_documents)
    (directory / "running.json").write_text(_json(answered))
    return 0


def freeze(directory: Path) -> None:
    """Write what this version makes of the sources into an empty directory."""
    for name in INPUTS:
        if (SOURCES / name).is_dir():
            shutil.copytree(SOURCES / name, directory / name)
        else:
            shutil.copy(SOURCES / name, directory / name)
    texts = dict(schema_texts())
    texts[INTERFACE] = (DATA / INTERFACE).read_text()
    with tempfile.TemporaryDirectory() as base:
        log = Path(base) / "audit.sqlite"
        texts["checkpoint"] = trio.run(write_log, log)
        with opened(log) as db:
            db.execute("PRAGMA journal_mode = DELETE")
        for name in AUDIT:
            shutil.copy(log.with_name(name), directory / name)
    with present(directory, directory) as version:
        texts["events.jsonl"] = version.call("audit -n all --json").out
        proofs = [
            version.call(f"audit prove {n}").out.strip()
            for n in range(1, len(texts["events.jsonl"].splitlines()) + 1, _PROVED)
        ]
        texts["proofs.jsonl"] = "\n".join(proofs) + "\n"
        texts["records.json"] = _json(version.records())
        texts["answers.jsonl"] = "".join(
            f"{json.dumps(answer)}\n" for answer in version.answers()
        )
        documents = {line: version.documents(line) for line in DOCUMENTS}
        texts["documents.json"] = _json(documents)
        texts["exit-codes.json"] = _json({**exit_codes(), "calls": version.exits()})
    texts["language.json"] = _json(language())
    for name, text in texts.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    for name in AUDIT:
        (directory / name).chmod(0o644)


async def write_log(path: Path) -> str:
    """Record an event of each kind with all its fields; return the last checkpoint."""
    kinds: list[type[Event]] = [*typing.get_args(schema.AnyEvent)]
    async with open_store(path) as store:
        for kind in (*kinds, *_SEVERAL):
            await store.record(sample(kind))
            if kind is kinds[len(kinds) // 2]:
                await store.evolve()
        return await store.checkpoint()


def sample(kind: type[Event]) -> Event:
    """Return an event with a value in each field that the store leaves alone."""
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {
        name: _value(name, hints[name])
        for name in kind.__struct_fields__
        if name not in STAMPED
    }
    values |= {"sandbox": "work", "lease": "0123456789abcdef", "stream": 1}
    return kind(**values)


def _value(name: str, hint: object) -> object:
    arguments = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return _value(name, next(kind for kind in arguments if kind is not type(None)))
    if typing.get_origin(hint) is typing.Literal:
        return arguments[-1]
    if typing.get_origin(hint) is list:
        return [_value(name, arguments[0])]
    if typing.get_origin(hint) in {dict, Mapping}:
        return {"fact": "value"}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return next(iter(hint))
    plain = {str: f"the {name}", int: 7, float: 1.5, bool: True}
    return plain[hint]  # type: ignore[index]


def _json(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
