"""From a document to a record: every key checked, every problem reported.

In two steps, because a record may inherit: ``take_draft`` takes what one file
sets, ``build_record`` adds the inherited keys and the defaults.

The authority, session children and brokerctl run this when they read records.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from policy import limits
from policy.errors import Spot
from policy.records.desktop_tables import (
    AUDIO,
    LOOKS,
    NETWORK,
)
from policy.records.document import Complain, Document
from policy.records.field_types import REFUSED, Field, Table
from policy.records.field_types import Path as KeyPath
from policy.records.kinds import KIND_KEY, KINDS, LaunchKind
from policy.records.launch_table import LAUNCH, PEER, STATE
from policy.records.launches import NEEDED, check, launch_of, path_of
from policy.records.model import (
    GPU_GLOBAL,
    STRIP_PIXELS,
    Audio,
    Clipboard,
    HostRecord,
    Label,
    Limits,
    NetworkLimits,
    Record,
    State,
    Transfer,
    ViewerRecord,
    Window,
    is_of_others,
)
from policy.records.mounts.user_files import Folders
from policy.records.record_schema import INHERITS_KEY, TABLES, TOP
from policy.suggestions import did_you_mean, nearest

# Clean values by dotted key.  Their types are those that ``tables`` promises,
# which no type checker can follow.
Taken = dict[str, Any]

LETTER_PIXELS = 9
"""The least height of an upper edge into which a letter fits."""


@dataclass(frozen=True)
class Draft:
    """Values that one file sets, validated, and the places of their keys.

    ``failed``: something was wrong with it, so it is no record's parent.
    """

    name: str
    source: Path
    document: Document
    taken: Mapping[str, Any]
    paths: Mapping[str, KeyPath]
    failed: bool
    lines: Sequence[str] = ()

    @property
    def inherits(self) -> str | None:
        """The record that it inherits from."""
        found: str | None = self.taken.get(INHERITS_KEY)
        return found

    def place(self, key: str) -> str:
        """``file:line:column`` of a key that is set."""
        span = self.document.key(self.paths[key])
        return f"{self.source}:{span.line}:{span.column}"

    def spot(self, key: str) -> Spot:
        """Where a value is set."""
        span = self.document.span(self.paths[key])
        line = self.lines[span.line - 1] if span.line <= len(self.lines) else ""
        return Spot(str(self.source), span, line)


_OTHERWISE = {
    "opaque": "to make windows translucent, set translucent = true; by default they are opaque",
    "mic": "did you mean 'microphone'?",
    "mute": 'to play no sound, set playback = "none"',
    "border_width": "did you mean 'border'?",
    "template": "did you mean 'inherits'?",
    "sandbox": "write the keys at the top, without a [table]: each file describes one sandbox",
}
"""Words that others have for a key, or that say it the other way round."""


class _Reader:
    """Takes one document apart; ``failed`` once something was wrong."""

    def __init__(self, document: Document, complain: Complain) -> None:
        self._document = document
        self._complain = complain
        self.failed = False
        self.taken: Taken = {}
        self.paths: dict[str, KeyPath] = {}

    def at_key(self, path: KeyPath, message: str, expected: str, hint: str) -> None:
        """Complain about a key."""
        self.failed = True
        self._complain(self._document.key(path), message, expected, hint)

    def at_value(self, path: KeyPath, message: str, expected: str, hint: str) -> None:
        """Complain about a value."""
        self.failed = True
        self._complain(self._document.span(path), message, expected, hint)

    def table(self, table: Table) -> None:
        """Validate and keep every key of a table that is set."""
        prefix = (table.name,) if table.name else ()
        values: object = self._document.values
        if table.name:
            values = self._document.values.get(table.name, {})
        if table.short and not isinstance(values, Mapping):
            self._take(table.by_key[table.short], values, prefix, prefix)
            return
        if not isinstance(values, Mapping):
            self.at_value(
                prefix, f"'{table.name}' must be a table", f"[{table.name}]", ""
            )
            return
        known = [*table.by_key]
        if not table.name:
            known += [other.name for other in TABLES if other.name]
        unknown = [key for key in values if key not in known]
        # The rest is counted alone: a hint is sought among all keys.
        # guard: hints for unknown keys are bounded
        hinted = unknown[: limits.PROBLEMS_PER_FILE]
        for key in hinted:
            self._unknown((*prefix, key), known, table)
        for key in unknown[len(hinted) :]:
            self.at_key((*prefix, key), _not_known(key, table), "", "")
        # A key that was misspelt is not missing as well.
        meant = {nearest(key, known) for key in hinted} | self._document.lost
        for field in table.fields:
            path = (*prefix, field.key)
            if field.key in values:
                self._take(field, values[field.key], path, prefix)
            elif field.required and field.key not in meant:
                hint = f"add a line: {field.key} = …"
                text = f"'{field.key}' is missing"
                self.at_key(path, text, field.kind.words, hint)

    def _take(
        self, field: Field, value: object, path: KeyPath, prefix: tuple[str, ...]
    ) -> None:
        """Validate a key's value; keep it with its place, or complain."""
        clean = field.kind.take(value, path, self.at_value)
        if clean is not REFUSED:
            key = ".".join((*prefix, field.key))
            self.taken[key] = clean
            self.paths[key] = path

    def _unknown(self, path: KeyPath, known: list[str], table: Table) -> None:
        """Complain about an unknown key, with the keys that may be meant."""
        key = str(path[-1])
        possible = self._possible(known, table)
        hint = _OTHERWISE.get(key, "") or _home(key, table)
        if not table.name and isinstance(self._document.values.get(key), Mapping):
            hint = did_you_mean(key, [t.name for t in TABLES if t.name]) or hint
        else:
            hint = hint or _meant(key, possible, table)
        self.at_key(path, _not_known(key, table), ", ".join(possible), hint)

    def _possible(self, known: list[str], table: Table) -> list[str]:
        """Return those of ``known`` that a record with this kind of launch may have."""
        launch = self._document.values.get("launch")
        kind = launch.get("kind") if isinstance(launch, Mapping) else None
        fields = table.by_key
        return [
            key
            for key in known
            if not isinstance(kind, str)
            or key not in fields
            or fields[key].belongs_to(kind)
        ]


def _without_meaning(kind: LaunchKind, key: str) -> str:
    """Return the hint for a key of [launch] that other kinds have."""
    if key == "image" and LAUNCH.by_key["container_image"].belongs_to(kind.name):
        return "name the container's image with 'container_image'"
    others = "; the program that starts the sandbox controls this"
    return "remove it" + (others if kind.of_others else "")


def _not_known(key: str, table: Table) -> str:
    return f"unknown key '{key[:60]}'" + (f" in [{table.name}]" if table.name else "")


def _meant(key: str, known: list[str], table: Table) -> str:
    """The hint that names the most similar key, of this table or another."""
    others = [other for t in TABLES for other in t.by_key if other not in known]
    near = nearest(key, [*known, *others])
    return did_you_mean(key, known) if near in known else _home(near, table)


def _home(key: str, wrong: Table) -> str:
    """Return the hint that says in which other table a key belongs, or nothing."""
    homes = [table for table in TABLES if table is not wrong and key in table.by_key]
    if homes == [TOP]:
        return f"move '{key}' to the top, before the first [table]"
    names = " or ".join(f"[{t.name}]" if t.name else "the top" for t in homes)
    return f"move '{key}' to {names}" if homes else ""


def take_draft(
    name: str,
    source: Path,
    document: Document,
    complain: Complain,
    lines: Sequence[str] = (),
) -> Draft:
    """Convert a file's document to a draft of a record; complain about the rest.

    ``name`` is the file's base name, already checked; ``lines`` is its text.
    """
    reader = _Reader(document, complain)
    for table in TABLES:
        reader.table(table)
    said = reader.taken.get("name", name)
    if said != name:
        reader.at_value(
            ("name",),
            f'"{said}" is not the file\'s base name',
            f'"{name}"',
            "rename the file, or remove the key",
        )
    return Draft(
        name, source, document, reader.taken, reader.paths, reader.failed, lines
    )


def build_record(
    draft: Draft, parents: Sequence[Draft], complain: Complain
) -> Record | None:
    """Return the record of a draft, or complain and return None.

    ``parents`` are those that it inherits from, the nearest first.
    """
    checks = _Checks(draft, _with_parents(draft, parents), complain)
    checks.kind()
    checks.state()
    checks.window()
    checks.audio()
    checks.machine()
    if draft.failed or checks.failed or "class" not in draft.taken:
        return None
    taken = checks.taken
    name = draft.name
    taken.setdefault("label.name", name)
    # The title's prefix is the sandbox's name unless the record has words. `label.name`
    # is the record's name if nothing is set, and disposables of one record would all
    # read the same. So a prefix that only repeats the record's name becomes the
    # sandbox's.
    taken.setdefault("window.title_prefix", taken["label.name"])
    taken.setdefault("window.top", _top(taken))
    viewer, host = _viewer(taken), _host(taken)
    owners = {
        key: owner
        for owner in (*reversed(parents), draft)
        for key in owner.paths
        if key in taken and (owner is draft or key not in _OWN)
    }
    return Record(
        name=name,
        viewer=viewer,
        host=host,
        source=draft.source,
        values=MappingProxyType({"name": name, **taken}),
        places=MappingProxyType({k: owner.place(k) for k, owner in owners.items()}),
        digest=_digest_of(name, viewer, host),
        inherits=tuple(parent.name for parent in parents),
        spots=MappingProxyType({k: owner.spot(k) for k, owner in owners.items()}),
        text="\n".join(draft.lines),
    )


_OWN = frozenset(
    f"{table.name}.{field.key}" if table.name else field.key
    for table in TABLES
    for field in table.fields
    if field.own or table.own
)


def _with_parents(draft: Draft, parents: Sequence[Draft]) -> Taken:
    """Return the effective values: set, inherited, or a default."""
    merged: Taken = {}
    for parent in reversed(parents):
        merged.update({k: v for k, v in parent.taken.items() if k not in _OWN})
    # Whole values, arrays too: a record could otherwise take no inherited tag away.
    merged.update(draft.taken)
    kind = merged.get(KIND_KEY, LAUNCH.by_key["kind"].default)
    ordered: Taken = {}
    for table in TABLES:
        if kind in table.if_set and not any(
            key.startswith(f"{table.name}.") for key in merged
        ):
            continue
        for field in table.fields:
            key = f"{table.name}.{field.key}" if table.name else field.key
            if not table.belongs_to(kind) or not field.belongs_to(kind):
                continue  # of another kind of launch, inherited
            if key in merged:
                ordered[key] = merged[key]
            elif field.default is not None:
                ordered[key] = field.kind.take(field.default, (key,), _impossible)
    return ordered


def _impossible(path: KeyPath, message: str, expected: str, hint: str) -> None:
    raise AssertionError(
        f"a default is not allowed: {path} {message} {expected} {hint}"
    )


class _Checks:
    """Checks of keys that depend on each other, for keys that the draft itself sets."""

    def __init__(self, draft: Draft, taken: Taken, complain: Complain) -> None:
        self.taken = taken
        self.failed = False
        self._draft = draft
        self._complain = complain

    def _at(self, path: KeyPath, message: str, expected: str, hint: str) -> None:
        self.failed = True
        document = self._draft.document
        if path not in document.keys and (INHERITS_KEY,) in document.keys:
            path = (INHERITS_KEY,)
        self._complain(document.key(path), message, expected, hint)

    def _table(self, name: str) -> Mapping[str, object]:
        found = self._draft.document.values.get(name, {})
        return found if isinstance(found, Mapping) else {}

    def kind(self) -> None:
        """Complain about keys of other kinds of launch, and about [peer]."""
        values = self._draft.document.values
        if "kind" in self._table("launch") and KIND_KEY not in self._draft.taken:
            return  # it was refused: what belongs to it is not known
        kind = self.taken[KIND_KEY]
        for field in LAUNCH.fields:
            if not field.belongs_to(kind) and field.key in self._table("launch"):
                self._at(
                    ("launch", field.key),
                    f"'{field.key}' is not allowed with kind = \"{kind}\"",
                    "",
                    _without_meaning(KINDS[kind], field.key),
                )
        self._needed(kind)
        if not PEER.belongs_to(kind):
            if "peer" in values:
                self._at(
                    ("peer",),
                    f'[peer] is not allowed with kind = "{kind}"',
                    "",
                    "remove it; Vitrail's launcher identifies the sandbox",
                )
        elif isinstance(values.get("peer", {}), Mapping):
            self._peer(self._table("peer"))

    def _needed(self, kind: str) -> None:
        """Complain where a kind of launch lacks the key that it needs."""
        if kind not in NEEDED:
            return
        key, message, expected, hint = NEEDED[kind]
        if f"launch.{key}" not in self.taken and key not in self._table("launch"):
            self._at(("launch", "kind"), message, expected, hint)

    def _peer(self, peer: Mapping[str, object]) -> None:
        """Complain unless [peer] names exactly one peer."""
        present = [field.key for field in PEER.fields if field.key in peer]
        if "required" in self._table("launch") and "libvirt" not in peer:
            self._at(
                ("launch", "required"),
                "'required' is not allowed for a machine without a hook",
                "",
                'remove it, or name a domain: [peer] libvirt = "NAME"',
            )
        if present == ["hybrid", "machine"]:
            return  # a machine of machined without a context id
        expected = f"exactly one of {', '.join(field.key for field in PEER.fields)}"
        for key in ("hybrid_directory", "cids"):
            if key in peer and self.taken.get("class", "disposable") != "disposable":
                self._at(
                    ("peer", key),
                    "several machines at one time need a name for each",
                    'class = "disposable"',
                    f"or set '{key.removesuffix('_directory').removesuffix('s')}' for one machine",
                )
        if not present:
            self._at(
                ("peer",) if peer else ("launch", "kind"),
                "no key of [peer] identifies this sandbox",
                f"[peer] with {expected}",
                "",
            )
        for key in present[1:]:
            self._at(
                ("peer", key), f"'{present[0]}' is already set in [peer]", expected, ""
            )

    def state(self) -> None:
        """Complain about [state] of a sandbox that keeps no files."""
        if STATE.name not in self._draft.document.values:
            return
        kept = self.taken.get("class")
        hint = 'remove it, or set class = "persistent"'
        if not STATE.belongs_to(self.taken[KIND_KEY]):
            why = f'kind = "{self.taken[KIND_KEY]}": its launcher controls this'
            hint = "remove it; keep the data by the means of that launcher"
        elif kept is not None and kept != "persistent":
            why = f'class = "{kept}": its data is deleted when it stops'
        else:
            return
        self._at((STATE.name,), f"[{STATE.name}] is not allowed with {why}", "", hint)

    def window(self) -> None:
        """Check that the window's upper edge has room for a letter of its name."""
        taken = self.taken
        top = taken.get("window.top")
        if taken.get("window.name_strip") and top is not None and top < LETTER_PIXELS:
            self._at(
                ("window", "top"),
                f"an upper edge of {top} pixels is too low for the name",
                f"at least {LETTER_PIXELS} with name_strip",
                "remove 'top', or set name_strip = false",
            )

    def audio(self) -> None:
        """Complain about audio keys without a meaning: no playback, or no filter."""
        playback = self.taken["audio.playback"]
        mine = self._table(AUDIO.name)
        if playback == "raw":
            for key in mine:
                if key != "playback" and key in AUDIO.by_key:
                    self._at(
                        (AUDIO.name, key),
                        f"'{key}' is not allowed with playback = \"raw\": the sandbox "
                        "uses the sound server without a filter",
                        "",
                        'remove it, or set playback = "allow"',
                    )
        elif playback == "none" and mine.get("microphone", "deny") != "deny":
            self._at(
                (AUDIO.name, "microphone"),
                'the microphone needs a sound service, but playback = "none"',
                "",
                'set playback = "allow"',
            )

    def machine(self) -> None:
        """Not every machine can have everything."""
        check(self.taken, self._at)


def _top(taken: Taken) -> int:
    border: int = taken["window.border"]
    return max(border, STRIP_PIXELS) if taken.get("window.name_strip") else border


def _viewer(taken: Taken) -> ViewerRecord:
    """Build the viewer's part of a record from its validated values."""
    network: dict[str, Any] = {
        f.key: taken.get(f"network.{f.key}") for f in NETWORK.fields
    }
    return ViewerRecord(
        label=_part(Label, taken),
        sandbox_class=taken["class"],
        tags=frozenset(taken["tags"]),
        default_disposable=taken.get("default_disposable"),
        display=taken["display"],
        timezone=taken["timezone"],
        window=_window(taken),
        audio=_audio(taken),
        clipboard=_part(Clipboard, taken),
        transfer=_part(Transfer, taken),
        network=NetworkLimits(**network),
        limits=_part(Limits, taken),
        folders=_folders(taken),
        services=taken["services"],
        looks=tuple(
            (f.key, taken[key])
            for f in LOOKS.fields
            if (key := f"looks.{f.key}") in taken
        ),
    )


_Part = TypeVar("_Part")


def _part(kind: type[_Part], taken: Taken) -> _Part:
    """Return the part of a record whose attributes are the keys of its table.

    A key without a value is None there.
    """
    table = kind.__name__.lower()
    values = {key: taken.get(f"{table}.{key}") for key in kind.__annotations__}
    return msgspec.convert(values, kind, dec_hook=path_of)


def _folders(taken: Taken) -> Folders:
    """Build what a sandbox has of the user's files by rule, and its mounts."""
    read = [*map(Path, taken["folders.read_only"])]
    change = [*map(Path, taken["folders.read_write"])]
    for mount in taken["mounts"]:
        if mount.source is not None:
            (change if mount.write else read).append(mount.source)
    return Folders(tuple(read), tuple(change), taken["mounts"], taken["disks"])


def _window(taken: Taken) -> Window:
    window = _part(Window, taken)
    # Its windows need it for what the GPU drew.
    if taken.get("launch.gpu") == "buffers":
        window = replace(window, allow=window.allow | {GPU_GLOBAL})
    return window


def _audio(taken: Taken) -> Audio:
    """Without a filter the microphone cannot be kept from it, whatever is set."""
    audio = _part(Audio, taken)
    return audio if audio.playback == "allow" else replace(audio, microphone="deny")


def _host(taken: Taken) -> HostRecord:
    keep_logs = taken["class"] == "persistent" or taken.get("logs") == "keep"
    return HostRecord(taken["class"], launch_of(taken), _state(taken), keep_logs)


def _state(taken: Taken) -> State | None:
    """Build what a sandbox keeps.

    None unless it is persistent and of a kind of ours.
    """
    if taken["class"] != "persistent" or "state.keep" not in taken:
        return None
    return State(
        frozenset(taken["state.keep"]),
        taken["state.disk_size"],
        encrypted=taken["state.encrypted"],
    )


def _digest_of(name: str, viewer: ViewerRecord, host: HostRecord) -> str:
    """Compute the SHA-256 digest of a record's meaning."""
    meaning = {
        "name": name,
        "viewer": asdict(viewer),
        "host": {**asdict(host), "kind": type(host.launch).__name__},
    }
    if is_of_others(host.launch):
        meaning["peer"] = type(host.launch.peer).__name__
    text = json.dumps(meaning, sort_keys=True, default=_plain)
    return hashlib.sha256(b"vitrail record 1\n" + text.encode()).hexdigest()


def _plain(value: object) -> object:
    """Convert a value to plain ones for JSON.  Raises TypeError for other types."""
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(type(value).__name__)
