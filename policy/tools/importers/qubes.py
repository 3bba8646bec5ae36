"""A Qubes system's policy, labels and tags, as our records and rules.

Rules keep their lines: only names are replaced (those that are not valid
here, services that Vitrail has under another name, types).  Each qube becomes
a record with its colour, its tags and its class, so that the rules mean the
same sandboxes.  Every line that means something else gets a note.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from policy import limits
from policy.rules.checks import SERVICES
from policy.rules.ruleset import RuleSet
from policy.tools.files_in_memory import rules_of_map
from policy.tools.importers import Imported, ImportNote
from policy.tools.importers.qubes_xml import Qube, QubesSystem
from policy.tools.qubes.differences import differences

SAME_SERVICES: Mapping[str, str] = MappingProxyType(
    {
        "qubes.Filecopy": "vitrail.FileCopy",
        "qubes.OpenInVM": "vitrail.OpenFile",
        "qubes.OpenURL": "vitrail.OpenURL",
        "qubes.ClipboardPaste": "vitrail.ClipboardPaste",
    }
)
"""Services that do here what they do there."""

OTHER_SERVICES: Mapping[str, str] = MappingProxyType(
    {
        "qubes.AudioInputEnable": "vitrail.AudioInput, target @adminvm",
        "qubes.USB": "vitrail.Device with id= or with-interface=",
        "u2f.Authenticate": "vitrail.SecurityKey with host=",
        "u2f.Register": "vitrail.SecurityKey with host=",
        "ctap.GetInfo": "vitrail.SecurityKey with host=",
        "ctap.ClientPin": "vitrail.SecurityKey with host=",
    }
)
"""Services whose purpose Vitrail serves by a rule that has to be written."""

_WORD = re.compile(r"\S+")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_LONGEST = 31
_TYPE = "@type:"
_CLASSES = {"DispVM": "disposable", "TemplateVM": "template"}


class QubesNames:
    """Names of another system, made valid here; the same one for the same name."""

    def __init__(self) -> None:
        self._made: dict[str, str] = {}
        self.changed: dict[str, str] = {}

    def take(self, name: str) -> str:
        """Return the name here: lower case, with '-', at most 31 characters."""
        if name not in self._made:
            made = re.sub(r"[^a-z0-9-]", "-", name.lower())[:_LONGEST]
            made = made if _NAME.fullmatch(made) else f"q-{made}"[:_LONGEST]
            self._made[name] = self._free(made)
            if self._made[name] != name:
                self.changed[name] = self._made[name]
        return self._made[name]

    def _free(self, wanted: str) -> str:
        taken, made, number = set(self._made.values()), wanted, 2
        while made in taken:
            made = f"{wanted[: _LONGEST - 1 - len(str(number))]}-{number}"
            number += 1
        return made


def import_qubes(
    rules: Mapping[str, str], system: QubesSystem | None, source: str = "qubes.xml"
) -> Imported:
    """Return records and rules for a Qubes system.

    ``rules`` are the rule files (``30-user.policy``, ``include/admin``);
    ``system`` is None if there are only rules.
    """
    return _Import(rules, system, source).run()


class _Import:
    def __init__(
        self, rules: Mapping[str, str], system: QubesSystem | None, source: str
    ) -> None:
        """Set up the import of rule files and, if given, a system."""
        self._rules = rules
        self._qubes = () if system is None else system.qubes
        self._default = "" if system is None else system.default_dispvm
        self._known = system is not None
        self._source = source
        self._names = QubesNames()
        self._tags = QubesNames()
        self._types: set[str] = set()
        self._notes: list[ImportNote] = []

    def run(self) -> Imported:
        """Return the converted rules and records, with notes."""
        for qube in sorted(
            self._qubes, key=lambda q: (q.name.lower() != q.name, q.name)
        ):
            self._names.take(qube.name)  # names that are valid already keep theirs
        files = {f"policy.d/{n}": self._file(n, t) for n, t in self._rules.items()}
        ours = rules_of_map(self._rules)
        for one in differences(ours, rules_of_map(self._rules, compat=True)):
            self._note(one.problem.where, one.row, one.problem.message)
        self._services(ours)
        for qube in self._qubes:
            name = self._names.take(qube.name)
            files[f"sandboxes.d/{name}.toml"] = self._record(qube, name)
        self._renamed()
        return Imported(files, tuple(self._notes))

    def _note(self, where: str, row: str, message: str) -> None:
        self._notes.append(ImportNote(where, row, message))

    # -- rules ---------------------------------------------------------------

    def _file(self, name: str, text: str) -> str:
        lines = text.split("\n")
        return "\n".join(self._line(name, n, line) for n, line in enumerate(lines, 1))

    def _line(self, name: str, number: int, line: str) -> str:
        """Convert the words of one rule's line; other lines stay as they are."""
        words = list(_WORD.finditer(line))
        if len(words) < 5 or words[0][0][0] in "#!":
            return line
        made, end = "", 0
        for index, word in enumerate(words):
            where = f"{name}:{number}:{word.start() + 1}"
            made += line[end : word.start()] + self._word(index, word[0], where)
            end = word.end()
        return made + line[end:]

    def _word(self, index: int, word: str, where: str) -> str:
        """Convert one word of a rule, by its column."""
        if index == 0:
            return SAME_SERVICES.get(word, word)
        if index in {2, 3}:
            return self._token(word, where)
        key, equals, value = word.partition("=")
        if index > 4 and equals and key in {"target", "default_target"}:
            return f"{key}={self._token(value, where)}"
        if index > 4 and key == "user":
            self._note(where, "user", "the image decides which user runs a program")
        return word

    def _token(self, word: str, where: str) -> str:
        """Convert a token of Qubes to ours, with a note where its meaning changes."""
        if word in {"dom0", "@adminvm", "@type:AdminVM"}:
            self._note(
                where, "dom0", f"'{word}' means the user at the viewer, not a system"
            )
            return "@adminvm"
        if word.startswith(_TYPE):
            return self._type(word.removeprefix(_TYPE), where)
        for prefix in ("@dispvm:@tag:", "@tag:"):
            if word.startswith(prefix):
                return prefix + self._tags.take(word.removeprefix(prefix))
        prefix = "@dispvm:" if word.startswith("@dispvm:") else ""
        name = word.removeprefix(prefix)
        if name.startswith(("@", "*", "uuid:")):
            return word
        if self._known and name not in {qube.name for qube in self._qubes}:
            self._note(where, "unknown", f"there is no qube '{name}' in {self._source}")
        return prefix + self._names.take(name)

    def _type(self, kind: str, where: str) -> str:
        """Replace a type of Qubes, which is not a class here, by a tag of equal meaning."""
        if kind == "DispVM":
            self._note(
                where,
                "type",
                "'@type:disposable' also matches the record of disposables",
            )
            return "@type:disposable"
        self._types.add(kind)
        tag = self._tags.take(f"qubes-{kind}")
        self._note(where, "type", f"'@type:{kind}' is imported as the tag '{tag}'")
        return f"@tag:{tag}"

    def _services(self, rules: RuleSet) -> None:
        """Note the services of rules that mean nothing, or something else, here."""
        unknown: dict[str, tuple[str, int]] = {}
        for rule in rules.rules:
            where = f"{rule.file}:{rule.line}:1"
            if rule.service is None:
                self._note(
                    where,
                    "all-services",
                    "'*' also matches Vitrail's own services (windows, sound, clipboard)",
                )
            elif rule.service in OTHER_SERVICES:
                wanted = OTHER_SERVICES[rule.service]
                self._note(
                    where,
                    "service",
                    f"Vitrail does not use {rule.service}: write {wanted}",
                )
            elif rule.service not in SAME_SERVICES and rule.service not in SERVICES:
                first, count = unknown.get(rule.service, (where, 0))
                unknown[rule.service] = (first, count + 1)
        for service, (first, count) in unknown.items():
            lines = "1 line" if count == 1 else f"{count} lines"
            self._note(first, "service", f"Vitrail does not use {service} ({lines})")

    # -- records -------------------------------------------------------------

    def _record(self, qube: Qube, name: str) -> str:
        """Return the text of a qube's record."""
        kind = "disposable" if qube.template_for_dispvms else _CLASSES.get(qube.kind)
        lines = [
            f"# Imported from Qubes: {json.dumps(qube.name)}, {json.dumps(qube.kind)}.",
            f'class = "{kind or "persistent"}"',
            f"tags = {json.dumps(self._tags_of(qube))}",
        ]
        disposable = self._disposable(qube)
        if disposable:
            lines.append(f'default_disposable = "{disposable}"')
        colour = qube.colour or "grey"
        lines += ['display = "allow"', "", "[label]", f'name = "{name}"']
        lines += [f'colour = "{colour}"', "", "[launch]", 'kind = "microvm"']
        network = "none" if qube.netvm == "" or qube.provides_network else "user"
        lines.append(f'network = "{network}"')
        self._record_notes(qube)
        return "\n".join([*lines, ""])

    def _tags_of(self, qube: Qube) -> list[str]:
        """Return a qube's tags in our spelling, up to the limit, with a note."""
        tags = [self._tags.take(tag) for tag in qube.tags]
        if qube.kind in self._types:
            tags.append(self._tags.take(f"qubes-{qube.kind}"))
        if len(tags) > limits.TAGS:
            self._note(
                f"{self._source}: {qube.name}",
                "tags",
                f"the qube has {len(tags)} tags; the first {limits.TAGS} are imported",
            )
        return tags[: limits.TAGS]

    def _disposable(self, qube: Qube) -> str:
        wanted = self._default if qube.default_dispvm is None else qube.default_dispvm
        known = {one.name for one in self._qubes}
        return self._names.take(wanted) if wanted in known else ""

    def _record_notes(self, qube: Qube) -> None:
        """Note a qube's settings that its record does not have."""
        where = f"{self._source}: {qube.name}"
        if qube.provides_network:
            self._note(
                where,
                "network",
                "the qube provides a network to others; in Vitrail, each sandbox has a separate one",
            )
        elif qube.netvm:
            self._note(
                where,
                "network",
                f'{qube.netvm} provided its network; it is imported as network = "user", '
                "without that qube's firewall",
            )
        if qube.kind == "DispVM":
            self._note(
                where,
                "class",
                "a named disposable: imported as a record from which disposables are created",
            )

    def _renamed(self) -> None:
        for names, what in ((self._names, "qube"), (self._tags, "tag")):
            for old, new in sorted(names.changed.items()):
                if what == "qube" or not old.startswith("qubes-"):
                    self._note(
                        self._source, "name", f"{what} '{old}' is imported as '{new}'"
                    )


def notes_once(notes: tuple[ImportNote, ...]) -> Iterator[ImportNote]:
    """Each note once, in the order of their places."""
    yield from sorted(dict.fromkeys(notes))
