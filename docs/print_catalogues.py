"""Bring the catalogues of translations up to date with the sources.

``python -m docs.print_catalogues`` writes each catalogue again: a message that is new has
an empty translation, a message that no source has any more is left out.  With
``--check`` it compares, and returns 1 when a catalogue is old.  ``--new DOMAIN LANGUAGE``
begins a catalogue.

A message is the literal argument of a call of ``FUNCTIONS``.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from broker.core.language.catalogue import FOLDER
from broker.core.language.po_file import PoEntry, parse

ROOT = Path(__file__).parents[1]
DOMAINS = {
    "dialog": (
        "broker/helpers/prompt/*.py",
        "broker/cli/menu/reported_start.py",
        "broker/cli/tray/menu_rows.py",
        "broker/viewer/notifications/*.py",
        "broker/viewer/uses/use_signs.py",
        "broker/viewer/screens.py",
        "broker/viewer/security_keys/shared_key.py",
        "broker/viewer/wayland/window_rules.py",
    ),
    "manager": (
        "broker/cli/manager/**/*.py",
        "broker/cli/sandboxes/presets.py",
        "broker/cli/sandboxes/settings.py",
    ),
    "notices": ("broker/core/language/notice_templates.py",),
}
"""The sources of each domain."""
FUNCTIONS = {
    "tr": (0,),
    "trn": (0, 1),
    "mark": (0,),
    "_counted": (0, 1),
}
"""By the name of a function: its arguments with a message, or with its two forms."""
TABLES = {
    # Tables of brokerctl that a page of the manager shows.
    "Preset": (0,),
    "PresetRunner": (0,),
    "Setting": (1,),
    "_choice": (1,),
    "_switch": (1,),
}
"""The same; these messages are the manager's alone."""
HEADER = (
    "Project-Id-Version: vitrail\n"
    "Language: {language}\n"
    "MIME-Version: 1.0\n"
    "Content-Type: text/plain; charset=UTF-8\n"
    "Content-Transfer-Encoding: 8bit\n"
    "Plural-Forms: {plurals}\n"
)
_PLACES = 4
"""Of a message in a comment."""
_TWO = "nplurals=2; plural=(n != 1);"

Message = tuple[str, str]
"""A message and its plural; empty: it has none."""


@cache
def messages(domain: str) -> dict[Message, list[str]]:
    """Return the messages of a domain in the order of the sources, each with its files."""
    found: dict[Message, list[str]] = {}
    for path in _sources(domain):
        name = str(path.relative_to(ROOT))
        shared = domain == "manager" and "manager" not in path.parts
        functions = TABLES if shared else FUNCTIONS
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for message in _calls(tree, functions):
            files = found.setdefault(message, [])
            if name not in files:
                files.append(name)
    return found


def _sources(domain: str) -> list[Path]:
    return sorted({path for pattern in DOMAINS[domain] for path in ROOT.glob(pattern)})


def _calls(
    tree: ast.AST, functions: Mapping[str, tuple[int, ...]]
) -> Iterator[Message]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if not isinstance(node.func, ast.Name):
            continue
        places = functions.get(node.func.id, ())
        values = [node.args[n] for n in places if n < len(node.args)]
        texts = [
            one.value
            for one in values
            if isinstance(one, ast.Constant) and isinstance(one.value, str)
        ]
        if texts and len(texts) == len(places) and texts[0]:
            yield texts[0], texts[1] if len(texts) == 2 else ""


def text_of(domain: str, old: str) -> str:
    """Return a catalogue with the present messages, and the translations of ``old``."""
    known = {(one.message, one.plural): one.strings for one in parse(old)}
    header = known.pop(("", ""))
    forms = max((len(strings) for strings in known.values()), default=2)
    count = header[0].partition("nplurals=")[2][:1]
    forms = int(count) if count.isdigit() else forms
    parts = [_entry(PoEntry("", "", header), [])]
    for message, files in messages(domain).items():
        size = forms if message[1] else 1
        strings = known.get(message, ("",) * size)
        parts.append(_entry(PoEntry(*message, strings), files))
    return "\n".join(parts)


def _entry(entry: PoEntry, files: list[str]) -> str:
    places = ", ".join([*files[:_PLACES], *(["…"] if files[_PLACES:] else [])])
    lines = [f"#: {places}"] if files else []
    lines += _field("msgid", entry.message)
    if entry.plural:
        lines += _field("msgid_plural", entry.plural)
        for number, text in enumerate(entry.strings):
            lines += _field(f"msgstr[{number}]", text)
    else:
        lines += _field("msgstr", entry.strings[0])
    return "\n".join(lines) + "\n"


def _field(name: str, text: str) -> list[str]:
    rows = text.splitlines(keepends=True)
    if len(rows) <= 1:
        return [f"{name} {_quoted(text)}"]
    return [f'{name} ""', *map(_quoted, rows)]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def catalogues() -> Iterator[tuple[str, Path]]:
    """Yield the domain and the file of each catalogue."""
    for domain in DOMAINS:
        for path in sorted((FOLDER / domain).glob("*.po")):
            yield domain, path


def main(words: list[str]) -> int:
    """Write the catalogues, or check them; return the exit code."""
    if words[:1] == ["--new"]:
        domain, language = words[1:3]
        path = FOLDER / domain / f"{language}.po"
        header = HEADER.format(language=language, plurals=_TWO)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_entry(PoEntry("", "", (header,)), []), encoding="utf-8")
    code = 0
    for domain, path in catalogues():
        old = path.read_text(encoding="utf-8")
        new = text_of(domain, old)
        if "--check" in words and new != old:
            sys.stdout.write(f"{path} is old: run python -m docs.print_catalogues\n")
            code = 1
        elif new != old:
            path.write_text(new, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
