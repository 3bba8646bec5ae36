"""From a document to a record: every key checked, every problem reported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from policy.document import Complain, Document
from policy.errors import did_you_mean, nearest
from policy.fields import REFUSED, Field, Table
from policy.fields import Path as KeyPath
from policy.model import (
    KIND_KEY,
    LAUNCH,
    LIMITS,
    PEER,
    TABLES,
    TOP,
    CidPeer,
    External,
    HostRecord,
    HybridPeer,
    Label,
    Limits,
    MicroVM,
    Record,
    UnixPeer,
    ViewerRecord,
    digest_of,
)

# Clean values by dotted key.  Their types are those that the tables of
# ``model`` promise, which no type checker can follow.
Taken = dict[str, Any]


class _Builder:
    """Takes one document apart; ``failed`` once something was wrong."""

    def __init__(self, document: Document, complain: Complain) -> None:
        self._document = document
        self._complain = complain
        self.failed = False
        self.taken: Taken = {}

    def at_key(self, path: KeyPath, message: str, expected: str, hint: str) -> None:
        """Complain about a key."""
        self.failed = True
        self._complain(self._document.key(path), message, expected, hint)

    def at_value(self, path: KeyPath, message: str, expected: str, hint: str) -> None:
        """Complain about a value."""
        self.failed = True
        self._complain(self._document.span(path), message, expected, hint)

    def table(self, table: Table) -> None:
        """Take every key of a table."""
        prefix = (table.name,) if table.name else ()
        values: object = self._document.values
        if table.name:
            values = self._document.values.get(table.name, {})
        if not isinstance(values, Mapping):
            self.at_value(
                prefix, f"'{table.name}' must be a table", f"[{table.name}]", ""
            )
            return
        known = [*table.by_key]
        if not table.name:
            known += [other.name for other in TABLES if other.name]
        unknown = [key for key in values if key not in known]
        for key in unknown:
            self._unknown((*prefix, key), known, table)
        # A key that was misspelt is not missing as well.
        meant = {nearest(key, known) for key in unknown} | self._document.lost
        for field in table.fields:
            path = (*prefix, field.key)
            if field.key in values:
                value = field.kind.take(values[field.key], path, self.at_value)
                if value is not REFUSED:
                    self.taken[".".join(path)] = value
            elif not field.required:
                self._default(field, path)
            elif field.key not in meant:
                hint = f"add a line: {field.key} = …"
                text = f"'{field.key}' is missing"
                self.at_key(path, text, field.kind.words, hint)

    def _unknown(self, path: KeyPath, known: list[str], table: Table) -> None:
        key = str(path[-1])
        hint = _home(key, table) or did_you_mean(key, known)
        if not hint:
            others = [other for t in TABLES for other in t.by_key]
            hint = _home(nearest(key, others), table)
        inside = f" in [{table.name}]" if table.name else ""
        self.at_key(path, f"unknown key '{key[:60]}'{inside}", ", ".join(known), hint)

    def _default(self, field: Field, path: tuple[str, ...]) -> None:
        # 'kind' is the first key of its table, so it has been taken before.
        if field.default is None or field.only not in {"", self.taken.get(KIND_KEY)}:
            return
        self.taken[".".join(path)] = field.kind.take(field.default, path, _impossible)


def _home(key: str, wrong: Table) -> str:
    """The hint that says in which other table a key belongs, or nothing."""
    homes = [table for table in TABLES if table is not wrong and key in table.by_key]
    if homes == [TOP]:
        return f"'{key}' stands at the top, before the first [table]"
    names = " or ".join(f"[{t.name}]" if t.name else "the top" for t in homes)
    return f"'{key}' belongs in {names}" if homes else ""


def _impossible(path: KeyPath, message: str, expected: str, hint: str) -> None:
    raise AssertionError(
        f"a default is not allowed: {path} {message} {expected} {hint}"
    )


def build_record(
    name: str, source: Path, document: Document, complain: Complain
) -> Record | None:
    """Return the record of a document, or complain and return None.

    ``name`` is the file's base name, already checked.
    """
    builder = _Builder(document, complain)
    for table in TABLES:
        builder.table(table)
    taken = builder.taken
    if taken.get("name", name) != name:
        builder.at_value(
            ("name",),
            f'"{taken["name"]}" is not the file\'s base name',
            f'"{name}"',
            "rename the file, or leave the key out",
        )
    _check_kind(builder, document)
    if builder.failed or "class" not in taken:
        return None
    viewer, host = _viewer(name, taken), _host(taken)
    return Record(
        name=name,
        viewer=viewer,
        host=host,
        source=source,
        values=MappingProxyType({"name": name, "label.name": name, **taken}),
        places=_places(source, document),
        digest=digest_of(name, viewer, host),
    )


def _check_kind(builder: _Builder, document: Document) -> None:
    """Each kind of launch has keys of its own; [peer] names exactly one peer."""
    kind = builder.taken.get(KIND_KEY)
    if kind is None:
        return
    launch = document.values.get("launch", {})
    for field in LAUNCH.fields:
        foreign = field.only not in {"", kind}
        if foreign and isinstance(launch, Mapping) and field.key in launch:
            builder.at_key(
                ("launch", field.key),
                f"'{field.key}' has no meaning for kind = \"{kind}\"",
                "",
                "remove it; whoever starts the sandbox decides this",
            )
    peer = document.values.get("peer", {})
    if kind != PEER.only:
        if "peer" in document.values:
            builder.at_key(
                ("peer",),
                f'[peer] has no meaning for kind = "{kind}"',
                "",
                "remove it; our launcher gives the sandbox its identity",
            )
    elif isinstance(peer, Mapping):
        _check_peer(builder, peer)


def _check_peer(builder: _Builder, peer: Mapping[str, object]) -> None:
    present = [field.key for field in PEER.fields if field.key in peer]
    expected = "exactly one of hybrid, cid, unix"
    if not present:
        builder.at_key(
            ("peer",) if peer else ("launch", "kind"),
            "nothing says how this sandbox is recognised",
            f"[peer] with {expected}",
            "",
        )
    for key in present[1:]:
        builder.at_key(
            ("peer", key), f"'{present[0]}' is already set in [peer]", expected, ""
        )


def _viewer(name: str, taken: Taken) -> ViewerRecord:
    return ViewerRecord(
        label=Label(taken.get("label.name", name), taken["label.colour"]),
        sandbox_class=taken["class"],
        tags=frozenset(taken["tags"]),
        display=taken["display"],
        audio=taken["audio"],
        limits=Limits(**{f.key: taken[f"limits.{f.key}"] for f in LIMITS.fields}),
    )


def _host(taken: Taken) -> HostRecord:
    launch: MicroVM | External
    if taken[KIND_KEY] == PEER.only:
        launch = External(_peer(taken))
    else:
        launch = MicroVM(
            image=taken["launch.image"],
            memory_mib=taken["launch.memory"],
            cpus=taken["launch.cpus"],
            network=taken["launch.network"],
            command=taken["launch.command"],
            boot_deadline=taken["launch.boot_deadline"],
        )
    return HostRecord(taken["class"], launch)


def _peer(taken: Taken) -> HybridPeer | CidPeer | UnixPeer:
    if "peer.cid" in taken:
        return CidPeer(cast("int", taken["peer.cid"]))
    if "peer.hybrid" in taken:
        return HybridPeer(Path(taken["peer.hybrid"]))
    return UnixPeer(Path(taken["peer.unix"]))


def _places(source: Path, document: Document) -> Mapping[str, str]:
    """The place of each key that the file sets."""
    return MappingProxyType(
        {
            ".".join(map(str, path)): f"{source}:{span.line}:{span.column}"
            for path, span in document.keys.items()
            if _is_key(path)
        }
    )


def _is_key(path: KeyPath) -> bool:
    table = next((t for t in TABLES if (t.name,) == path[:-1]), TOP)
    return len(path) <= 2 and path[-1] in table.by_key
