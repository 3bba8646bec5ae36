"""The sandboxes that rules speak about: names, tags, types, disposables.

A world is a value: rules and a world give an answer without looking at the
machine.  It is made of records, or of the JSON that Qubes' policy tools read
as ``--system-info`` (``domains``: name to properties).

Tokens of rules can match only a finite set of *keys*: ``*``, ``@anyvm``,
the name, ``@tag:…`` and so on.  A world knows the keys of each source and
target, so that matching is a look into a set.

The authority makes one of its records and the running sandboxes, brokerctl for its
tools.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType

from policy import limits
from policy.destinations import NET
from policy.names import ADMIN, ADMIN_NAMES
from policy.records.model import RecordSet

DEFAULT = "@default"
DISPVM = "@dispvm"
DISPVM_OF = "@dispvm:"
RUNNING = "Running"
DISPOSABLE = "disposable"
"""The class of our records of which fresh sandboxes are made, and their type here."""


@dataclass(frozen=True)
class Domain:
    """One sandbox, in Qubes' words.

    ``template_for_dispvms``: disposables may be made of it; ``default_dispvm``
    is what ``@dispvm`` means when this sandbox says it; ``internal`` ones are
    never offered to a user.  ``record`` is the disposable record that a running
    sandbox is of: rules that name it mean its sandboxes.
    """

    name: str
    type: str = ""
    tags: frozenset[str] = frozenset()
    default_dispvm: str | None = None
    template_for_dispvms: bool = False
    power_state: str = "Halted"
    uuid: str | None = None
    internal: bool = False
    record: str | None = None


Keys = tuple[str, ...]


@dataclass(frozen=True)
class World:
    """All sandboxes by name; in JSON from Qubes also by ``uuid:…``."""

    domains: Mapping[str, Domain]
    _sources: dict[str, Keys] = field(default_factory=dict, compare=False, repr=False)
    _targets: dict[tuple[str, str], Keys] = field(
        default_factory=dict, compare=False, repr=False
    )
    _made: dict[str, tuple[str, ...]] = field(
        default_factory=dict, compare=False, repr=False
    )
    _matched: dict[str, set[str]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Every name once, without the ``uuid:`` entries."""
        if "" not in self._made:
            names = (name for name in self.domains if not name.startswith("uuid:"))
            self._made[""] = tuple(names)
        return self._made[""]

    def members(self, key: str) -> tuple[str, ...]:
        """Return every target that a token with this key offers to a user.

        For ``*``, ``@anyvm``, ``@tag:…``, ``@type:…`` and ``@dispvm:@tag:…``.
        """
        made = self._made.get(key)
        if made is None:
            made = tuple(self._members(key))
            if len(self._made) < limits.DOMAINS:
                self._made[key] = made
        return made

    def _members(self, key: str) -> Iterator[str]:
        """Yield the targets that a token with a key offers; see ``members``."""
        everything = key in {"*", "@anyvm"}
        disposables = key.startswith("@dispvm:@tag:")
        tagged = key.removeprefix(DISPVM_OF)
        tag = tagged.removeprefix("@tag:") if tagged.startswith("@tag:") else None
        if everything:
            yield DISPVM
        for name in self.names:
            domain = self.domains[name]
            made = DISPVM_OF + name
            if everything:
                if key == "*" or name not in ADMIN_NAMES:
                    yield name
                if domain.template_for_dispvms:
                    yield made
            elif disposables:
                if tag in domain.tags and domain.template_for_dispvms:
                    yield made
            elif tag in domain.tags or key == f"@type:{domain.type}":
                yield name

    def running_of(self, record: str) -> tuple[str, ...]:
        """Return the running sandboxes of a disposable record, by their own names."""
        key = f"@record:{record}"
        made = self._made.get(key)
        if made is None:
            made = tuple(n for n in self.names if self.domains[n].record == record)
            if len(self._made) < limits.DOMAINS:
                self._made[key] = made
        return made

    def matched(self, key: str) -> AbstractSet[str]:
        """Return the names, and ``@dispvm:NAME`` of them, that a key matches."""
        if not self._matched:
            self._matched["*"] = set()
            for name in self.names:
                for target in (name, DISPVM_OF + name):
                    for one in self.target_keys(target, ""):
                        self._matched.setdefault(one, set()).add(target)
        return self._matched.get(key, frozenset())

    def name_of(self, text: str) -> str:
        """Return the name of a ``uuid:…`` that is known, else the text itself."""
        if text.startswith("uuid:"):
            for domain in self.domains.values():
                if f"uuid:{domain.uuid}" == text:
                    return domain.name
        return text

    def template(self, source: str) -> str | None:
        """Resolve ``@dispvm`` for a source, as ``@dispvm:NAME``; None without one."""
        domain = self.domains.get(source)
        if domain is None or domain.default_dispvm is None:
            return None
        return DISPVM_OF + domain.default_dispvm

    def is_template(self, name: str) -> bool:
        """Return whether disposables may be made of this sandbox."""
        domain = self.domains.get(name)
        return domain is not None and domain.template_for_dispvms

    def source_keys(self, source: str) -> Keys:
        """Return the keys of the tokens that match a source; remembers them."""
        keys = self._sources.get(source)
        if keys is None:
            keys = self._keys_of_name(source)
            if source in self.domains:
                self._sources[source] = keys
        return keys

    def target_keys(self, target: str, source: str) -> Keys:
        """Return the keys of the tokens that match a target, as the source says it."""
        if not target.startswith("@"):
            return self.source_keys(target)
        keys = self._targets.get((target, source))
        if keys is None:
            keys = self._special_keys(target, source)
            if source in self.domains and len(self._targets) < limits.DOMAINS:
                self._targets[target, source] = keys
        return keys

    def _keys_of_name(self, name: str) -> Keys:
        """Return the keys of the tokens that match a sandbox by its name."""
        keys = ["*", ADMIN if name in ADMIN_NAMES else "@anyvm"]
        domain = self.domains.get(name)
        if name not in ADMIN_NAMES:
            keys.append(name)
            if domain is not None and domain.uuid is not None:
                keys.append(f"uuid:{domain.uuid}")
        if domain is not None:
            if domain.record is not None:
                keys.append(domain.record)
            keys.append(f"@type:{domain.type}")
            keys += [f"@tag:{tag}" for tag in sorted(domain.tags)]
        return tuple(keys)

    def _special_keys(self, target: str, source: str) -> Keys:
        """Return the keys of the tokens that match a target which is not a name."""
        if target in {ADMIN, NET}:
            return ("*", target)
        keys = ["*", "@anyvm", target]
        template = self.template(source) if target == DISPVM else target
        if template is None or not template.startswith(DISPVM_OF):
            return tuple(keys)
        if template != target:
            keys.append(template)
        domain = self.domains.get(template.removeprefix(DISPVM_OF))
        if domain is not None:
            if domain.uuid is not None:
                keys.append(f"{DISPVM_OF}uuid:{domain.uuid}")
            if domain.template_for_dispvms:
                keys += [f"{DISPVM_OF}@tag:{tag}" for tag in sorted(domain.tags)]
        return tuple(keys)


def world_of(records: RecordSet, running: Iterable[tuple[str, str]] = ()) -> World:
    """Build the world of the records; ``running`` is (sandbox, its record).

    A record is a sandbox of its name whose type is its class.  A running
    disposable has its record's tags, under its name, and rules for its record's
    name are for it, too: a rule that denies ``web`` something must not miss ``web-1234``.
    """
    domains = {"dom0": Domain("dom0", "AdminVM", power_state=RUNNING)}
    up = dict(running)
    for name, record in records.records.items():
        view = record.viewer
        domains[name] = Domain(
            name,
            view.sandbox_class,
            view.tags,
            view.default_disposable,
            template_for_dispvms=view.sandbox_class == DISPOSABLE,
            power_state=RUNNING if name in up else "Halted",
        )
    for name, of in up.items():
        if name not in domains and of in records.records:
            view = records.records[of].viewer
            domains[name] = Domain(
                name,
                view.sandbox_class,
                view.tags,
                view.default_disposable,
                power_state=RUNNING,
                record=of,
            )
    return World(MappingProxyType(domains))
