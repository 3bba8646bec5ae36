"""List a sandbox's permissions: for each the decision, its place and its switch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from broker.cli.manager.words import joined, known, tr
from broker.cli.policy.load import Situation, rules_of
from broker.cli.sandboxes.settings import SETTINGS, setting_of, shown
from broker.core.escape import printable
from broker.core.paths import Paths
from broker.ipc.audit.filters import Filters, Found
from broker.ipc.audit.query import open_log
from policy.destinations import NETWORK
from policy.records.model import RecordSet
from policy.rules.engine import Engine, PolicyCall
from policy.rules.ruleset import RuleSet
from policy.rules.verdict import Verdict
from policy.rules.world import world_of
from policy.tools.calls import Sandboxes
from policy.tools.diff import TooManyError
from policy.tools.effective import EffectiveCall, grants, grants_to

_EVENTS: Final = 400
"""Newest decisions of a sandbox in which the last use of its permissions is looked for."""


@dataclass(frozen=True, slots=True)
class Permission:
    """A permission: the call that uses it, and the setting of a record that opens it.

    ``setting`` is a word of ``brokerctl set``; empty: rules alone decide.  ``target`` is
    the other side, of which it may be the source (``into``: the sandbox receives).
    ``scheme`` is the address's, for which rules may ask.
    """

    title: str
    service: str
    argument: str = "+"
    setting: str = ""
    target: str = "@adminvm"
    into: bool = False
    scheme: str | None = None

    def call(self, sandbox: str) -> PolicyCall:
        """Return the call by which a sandbox uses it."""
        sides = (self.target, sandbox) if self.into else (sandbox, self.target)
        return PolicyCall(self.service, self.argument, *sides, scheme=self.scheme)

    def covers(self, effective: EffectiveCall, sandbox: str) -> bool:
        """Return whether a class of calls uses it."""
        call = effective.call
        target = sandbox if self.into else self.target
        return (
            call.service == self.service
            and self.argument in {"+", call.argument}
            and self.scheme in {None, call.scheme}
            and call.source == (self.target if self.into else sandbox)
            and target in effective.targets
        )


PERMISSIONS: Final = (
    Permission(tr("Show windows"), "vitrail.Display", setting="windows"),
    Permission(tr("Play sound"), "vitrail.AudioOutput", setting="sound"),
    Permission(tr("Use the microphone"), "vitrail.AudioInput", setting="microphone"),
    Permission(tr("Use the camera"), "vitrail.Camera"),
    Permission(tr("See the screen"), "vitrail.ScreenShare"),
    Permission(tr("Reach the network"), "vitrail.Network", setting="network"),
    Permission(tr("Receive what you copied"), "vitrail.ClipboardPaste", into=True),
    Permission(tr("Place its copies on your clipboard"), "vitrail.ClipboardPaste"),
    Permission(tr("Open files elsewhere"), "vitrail.OpenFile", target="@default"),
    Permission(
        tr("Open links elsewhere"), "vitrail.OpenURL", target="@default", scheme="https"
    ),
    Permission(tr("Ask for your files"), "vitrail.FileDialog", "+open"),
    Permission(tr("Save files where you choose"), "vitrail.FileDialog", "+save"),
    Permission(tr("Use your folders"), "vitrail.Folder"),
    Permission(tr("Use your disk images"), "vitrail.Block"),
    Permission(tr("Use USB devices"), "vitrail.Device"),
    Permission(tr("Show notifications"), "vitrail.Notification"),
    Permission(tr("Show icons in the panel"), "vitrail.Tray"),
    Permission(tr("Print"), "vitrail.Print"),
    Permission(tr("Use ssh keys"), "vitrail.SshAgent"),
    Permission(tr("Use the security key"), "vitrail.SecurityKey"),
    Permission(tr("Follow the desktop's looks"), "vitrail.Settings"),
)
"""In the order of the page."""

_WORDS: Final = {
    "allow": tr("Allowed"),
    "ask": tr("Asks you each time"),
    "deny": tr("Denied"),
    "error": tr("Denied: the rules have an error"),
}
_CONDITIONAL: Final = {
    "allow": tr("Allowed, with conditions"),
    "ask": tr("Asks you, with conditions"),
}
"""Labels of a permission that other calls of the same service do not have."""


@dataclass(frozen=True, slots=True)
class LastUse:
    """The newest decision about a permission in the audit log."""

    verdict: str
    answered_by: str
    time: datetime

    def sentence(self) -> str:
        """Return who decided when, in words."""
        who = {
            "person": tr("you"),
            "grant": tr("your earlier answer"),
            "timeout": tr("no one"),
        }
        return tr(
            "last used {time}: {verdict} by {who}",
            time=f"{self.time:%Y-%m-%d %H:%M}",
            verdict=known(self.verdict),
            who=who.get(self.answered_by, tr("the policy")),
        )


@dataclass(frozen=True, slots=True)
class PermissionRow:
    """A row of the page.

    ``where`` is ``file:line:column`` of the deciding line, or why there is none;
    ``conditional``: it holds for some calls only, by their host or key, for example;
    ``value`` the setting's present value, ``values`` all that it can have; ``fixed`` why
    no switch is offered.
    """

    permission: Permission
    verdict: str
    where: str
    value: str = ""
    values: tuple[str, ...] = ()
    fixed: str = ""
    last: LastUse | None = None
    conditional: bool = False

    def sentence(self) -> str:
        """Return the decision, its place and its last use as text."""
        words = _CONDITIONAL if self.conditional else _WORDS
        parts = [words[self.verdict], short_place(self.where)]
        if self.last is not None:
            parts.append(self.last.sentence())
        return joined(" · ", parts)


def short_place(where: str) -> str:
    """Return the place of a line without its directory, which its button opens."""
    return printable(where.rpartition("/")[2], 100)


def permission_rows(
    paths: Paths, records: RecordSet, sandbox: str, record: str
) -> list[PermissionRow]:
    """Return a sandbox's permissions towards this desktop, from the policy's files.

    ``record`` is its record's name; ``sandbox`` differs for a numbered disposable.
    Raises RefusedError when the rules cannot be read.
    """
    rules = rules_of(())
    engine = Engine(rules)
    known_records = Sandboxes(records, {})
    situation = Situation(world_of(records), known_records).calling({sandbox})
    known = records.records.get(record)
    last = last_uses(paths, sandbox)
    rows = []
    calls = _permitted(rules, situation, sandbox)
    for permission in PERMISSIONS:
        call = permission.call(sandbox)
        verdict = situation.decide(call, partial(engine.answer, call, situation.world))
        setting = SETTINGS.get(permission.setting)
        fixed = _why_fixed(permission, verdict)
        offered = setting is not None and known is not None
        decision = (verdict.answer.verdict, verdict.where)
        matching = [each.answer for each in calls if permission.covers(each, sandbox)]
        conditional = any(answer.verdict != decision[0] for answer in matching)
        if conditional:
            widest = min(matching, key=lambda answer: answer.verdict)
            decision = (widest.verdict, widest.where)
        if (
            permission.service == NETWORK
            and known
            and shown(setting_of("network"), known) == "user"
        ):
            # Its packets are not decided, so the record's word counts.
            decision = ("allow", known.where("launch.network"))
        rows.append(
            PermissionRow(
                permission,
                *decision,
                shown(setting, known) if setting and known else "",
                tuple(setting.words) if setting and offered else (),
                "" if offered else fixed,
                last.get(permission.service),
                conditional,
            )
        )
    return rows


def _permitted(
    rules: RuleSet, situation: Situation, sandbox: str
) -> list[EffectiveCall]:
    """Return all classes of calls from and to a sandbox that are not denied.

    The list is empty if they are too many: then the page has the decision about a
    plain call.
    """
    try:
        outgoing = grants(rules, situation.world, sandbox)
        incoming = grants_to(rules, situation.world, sandbox)
    except TooManyError:
        return []
    return situation.permitted([*outgoing, *incoming])


def _why_fixed(permission: Permission, verdict: Verdict) -> str:
    """Return why a permission has no switch, and what changes it."""
    if permission.setting:
        return tr("This sandbox has no record: its settings end with its run.")
    place = verdict.where.rsplit(":", 2)[0]
    if verdict.answer.rule is None or not place:
        return tr(
            "No rule allows it. To add one, run 'brokerctl policy edit 30-user', "
            "or answer its next question with 'always'."
        )
    return tr("A rule decides it: edit {file}", file=printable(place, 200))


def last_uses(paths: Paths, sandbox: str) -> Mapping[str, LastUse]:
    """Return the newest decision about each service; nothing if there is no log yet."""
    found: dict[str, LastUse] = {}
    if not paths.audit.exists():
        return found
    with open_log(paths.audit) as log:
        wanted = Filters(sandboxes=(sandbox,), kinds=("decision",))
        for event in log.find(wanted, last=_EVENTS, newest_first=True):
            service, use = _use_of(event)
            found.setdefault(service, use)
    return found


def _use_of(event: Found) -> tuple[str, LastUse]:
    fields = event.fields()
    when = datetime.fromtimestamp(event.time_ns / 1e9).astimezone()
    return str(fields.get("service", "")), LastUse(
        printable(str(fields.get("verdict", "")), 20),
        printable(str(fields.get("answered_by", "")), 20),
        when,
    )
