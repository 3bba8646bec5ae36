"""Terms of a copy or a paste, from the rules and the records.

Of the rule, the source's record and the target's the strictest holds, among
those that say something; where none does, the service's own default.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from broker.authority.permit import Request
from broker.core.clipboard.types import DEFAULT_PATTERNS, TEXT, DraggedFiles, fits
from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.limits import clipboard as limits
from broker.core.services import CLIPBOARD_PASTE, FILE_COPY
from broker.ipc.authority import Preview, ShownRule
from broker.viewer.authority.interface import Permits
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.reasons import (
    DRAG,
    DRAG_BOX,
    DRAG_NAMES,
    DRAG_NO_FILES,
)
from policy.records.model import Clipboard, Record

SERVICE = CLIPBOARD_PASTE
_ACTIONS = frozenset({"allow", "ask"})
Records = Callable[[Lease], Record | None]


@dataclass(frozen=True)
class _Kind:
    """One type that may cross, and by which answer."""

    kind: str
    size: int | None
    answer: Preview
    rule: ShownRule


class Terms:
    """Asks the decider for one viewer's clipboard."""

    def __init__(self, decider: Permits, record: Records) -> None:
        self._decider = decider
        self._record = record

    # -- before the target is known ---------------------------------------------------

    async def copy(self, lease: Lease) -> w.CopyTerms:
        """The content worth reading: the most that any rule could let out of it."""
        return _widest(await self._rules(lease.sandbox), self._speaking(lease))

    async def outward(self, lease: Lease) -> bool:
        """Return whether a rule could let it into the user's own selection."""
        return bool(await self._rules(lease.sandbox, w.VIEWER))

    async def inward(self, lease: Lease) -> w.CopyTerms | None:
        """Return the terms for pasting the user's own selection; None: no rule."""
        rules = await self._rules("dom0", lease.sandbox)
        # guard: the user's clipboard crosses only by a rule
        return _widest(rules, self._speaking(lease)) if rules else None

    # -- drags ----------------------------------------------------------------------------

    async def drags(self, lease: Lease) -> tuple[bool, list[str]]:
        """Return whether a sandbox's drags may cross, and the kinds that may go out.

        The user cannot be asked while the pointer waits, and no filter sees a drop on
        the user's own programs: so those kinds alone for which a rule says
        ``allow`` by now.
        """
        if not self._dragging(lease):
            return False, []
        kinds = set(DEFAULT_PATTERNS)
        for rule in await self._rules(lease.sandbox, w.VIEWER):
            kinds.update(k for k in rule.mime if "*" not in k)
        wanted = [(kind, None) for kind in sorted(kinds)]
        may = await self._may(lease, None, wanted, self._speaking(lease))
        return True, [one.kind for one in may if one.answer.verdict == "allow"]

    async def dragged(
        self, source: Lease | None, target: Lease | None
    ) -> w.CopyTerms | None:
        """Return the terms of a drag from one to the other; None: it is not allowed.

        None in the place of a lease: the user's own programs.
        """
        if not self._dragging(source, target):
            return None
        here = source.sandbox if source is not None else "dom0"
        there = target.sandbox if target is not None else w.VIEWER
        rules = await self._rules(here, there)
        return _widest(rules, self._speaking(source or target)) if rules else None

    async def files(
        self, lease: Lease, untrusted_files: DraggedFiles
    ) -> tuple[w.CopyTerms | None, str]:
        """Return the terms of the user's drag of files to a sandbox, or why not."""
        record = self._record(lease)
        # guard: a box accepts no drag of files, which no program in it could store
        if record is not None and record.host.launch.kind.box:
            return None, DRAG_BOX
        if untrusted_files != "key":
            return None, DRAG_NAMES
        (answer,) = await self._decider.preview([dropped_files(lease)])
        # guard: a sandbox that no rule lets files into accepts no drag of them
        if answer is None or answer.verdict not in _ACTIONS:
            return None, DRAG_NO_FILES
        most = limits.CLIPBOARD_FILE_KEY_BYTES
        return w.CopyTerms((), most, files=True), ""

    def _dragging(self, *leases: Lease | None) -> bool:
        """Return whether the record of each says that drags cross by rules."""
        known = [lease for lease in leases if lease is not None]
        said = self._speaking(*known)
        return len(said) == len(known) and all(one.drag == "rules" for one in said)

    async def _rules(self, source: str, target: str = "") -> list[ShownRule]:
        """Those that could say yes; which of them decides is not asked here."""
        found = await self._decider.rules_about(SERVICE, source, target)
        return [r for r in found if r.action in _ACTIONS and r.argument in {None, "+"}]

    def _speaking(self, *leases: Lease | None) -> list[Clipboard]:
        found = [self._record(lease) for lease in leases if lease is not None]
        return [record.viewer.clipboard for record in found if record is not None]

    # -- a paste, or an export --------------------------------------------------------------

    async def decide(
        self,
        action: w.AskPolicy,
        source: Lease | None,
        target: Lease | None,
        origin: Lease | None = None,
    ) -> w.PasteTerms:
        """Ask for the permission of a copy or paste; return its terms.

        Raises RefusedError, UpstreamError.

        ``source`` or ``target`` is None for the user's own programs.
        ``origin``: whose export the user's selection is; then what holds
        between these two has to allow it as well.
        """
        if action.drag and not self._dragging(source, target):
            raise RefusedError(DRAG)
        terms = await self._allowed(action, source, target)
        if action.drag and not self._dragging(source, target):
            raise RefusedError(DRAG)  # while the user was asked
        # guard: origin of incoming content
        if origin is None:
            return terms
        return _both(terms, await self._allowed(action, origin, target))

    async def record_allows(
        self, source: Lease | None, target: Lease, kinds: Iterable[str]
    ) -> str:
        """Return why pasted content must be withdrawn; empty if it may stay."""
        requests = [_request(source, target, kind, None) for kind in kinds]
        answers = await self._decider.preview(requests)
        if any(x is None or x.verdict not in _ACTIONS for x in answers):
            return "the rules no longer allow the content"
        return ""

    async def _allowed(
        self, action: w.AskPolicy, source: Lease | None, target: Lease | None
    ) -> w.PasteTerms:
        """Return the terms of kinds that rules allow, after one question at most."""
        speaking = self._speaking(source, target)
        may = await self._may(source, target, action.kinds, speaking)
        asking = [one for one in may if one.answer.verdict == "ask"]
        # The user is asked once, about all that the same rule asks about as the
        # first, which is text where there is any.  What would need a further
        # question stays out.
        # guard: one question
        crossing = [
            one for one in may if one not in asking or one.rule == asking[0].rule
        ]
        if not crossing and target is None:
            raise RefusedError(
                "no rule allows copying the content to the desktop's clipboard"
            )
        if not crossing:
            # Recorded as a no, with the rule that says it.
            kind, size = action.kinds[0]
            async with self._decider.permit(_request(source, target, kind, size)):
                pass
            raise RefusedError("the records allow no type of the copied content")
        crossing.sort(key=lambda one: one.answer.verdict != "ask")
        where, covered = "", None
        claims = _claims(crossing)
        for one in crossing:
            request = _request(source, target, one.kind, one.size, claims)
            if action.drag:
                request = replace(request, way="drag")
            async with self._decider.permit(request, covered=covered) as permit:
                where, covered = where or permit.where, covered or permit
        return await self._as_now(crossing, source, target, where)

    async def _as_now(
        self,
        crossing: list[_Kind],
        source: Lease | None,
        target: Lease | None,
        where: str,
    ) -> w.PasteTerms:
        """Return the terms by current rules and records, after the user's answer."""
        speaking, clean = self._speaking(source, target), self._speaking(target)
        wanted = [(one.kind, one.size) for one in crossing]
        now = await self._may(source, target, wanted, speaking)
        if len(now) < len(crossing):
            raise RefusedError("the rules or records no longer allow the content")
        return w.PasteTerms(
            patterns=tuple(one.kind for one in now),
            max_bytes=_bytes(now, speaking),
            ttl=_strictest(
                (one.answer.ttl for one in now),
                (record.ttl for record in speaking),
                limits.CLIPBOARD_SECONDS,
            ),
            primary=bool(clean) and clean[0].primary == "rules",
            clean=clean[0].clean if clean else frozenset(),
            rule=where,
        )

    async def _may(
        self,
        source: Lease | None,
        target: Lease | None,
        wanted: Iterable[tuple[str, int | None]],
        speaking: list[Clipboard],
    ) -> list[_Kind]:
        """Return those of the wanted kinds and sizes that rules and records permit."""
        asked = [(*one, _request(source, target, *one)) for one in wanted]
        answers = await self._decider.preview([request for _, _, request in asked])
        found = []
        for (kind, size, _), answer in zip(asked, answers, strict=True):
            if answer is None or answer.verdict not in _ACTIONS or answer.rule is None:
                continue
            said: list[Collection[str]] = [one.types for one in speaking if one.types]
            if answer.rule.mime:
                said.append(answer.rule.mime)
            # guard: records are stricter than rules
            if not all(fits(kind, types) for types in said or [DEFAULT_PATTERNS]):
                continue
            found.append(_Kind(kind, size, answer, answer.rule))
        return found


def dropped_files(
    lease: Lease, names: Sequence[str] = (), size: int | None = None
) -> Request:
    """Return the request to copy files that the user has dropped on a sandbox."""
    sizes = [] if size is None else [("size", f"{size} bytes")]
    # guard: a line for each name of the question about dropped files
    lines = [("what", name) for name in names]
    return Request(
        lease=lease,
        source=w.VIEWER,
        service=FILE_COPY,
        target=lease.sandbox,
        # The drop is what the user does; it was made just now.
        gesture=0.0,
        size=size,
        claims=(*lines, *sizes),
        settled=True,
    )


def _claims(crossing: list[_Kind]) -> tuple[tuple[str, str], ...]:
    """Return the details of the question: a line for each type, and the size.

    A line for each type, which are CLIPBOARD_KINDS at most: in one line the
    name that a source makes long would hide the others.
    """
    kinds = sorted((one.kind for one in crossing), key=lambda k: (k != TEXT, k))
    sizes = [one.size for one in crossing]
    known = [size for size in sizes if size is not None]
    size = f"{sum(known)} bytes" if len(known) == len(sizes) else ""
    together = " together" if size and len(kinds) > 1 else ""
    # guard: a line for each type of a question
    types = [("type", kind) for kind in kinds]
    return (*types, *([("size", size + together)] if size else []))


def _request(
    source: Lease | None,
    target: Lease | None,
    kind: str,
    size: int | None,
    claims: tuple[tuple[str, str], ...] = (),
) -> Request:
    """Return the permit request for one kind of content.  Raises RefusedError."""
    lease = source or target
    if lease is None:
        raise RefusedError("the sandbox of this copy or paste is no longer running")
    # guard: a paste goes where the keyboard is
    return Request(
        lease=lease,
        source="" if source else w.VIEWER,
        service=SERVICE,
        target=target.sandbox if target else w.VIEWER,
        mime=kind,
        size=size,
        # The chord is what the user does; it was pressed just now.
        gesture=0.0,
        claims=claims,
        settled=True,
    )


def _bytes(crossing: list[_Kind], speaking: list[Clipboard]) -> int:
    """Return the byte limit of all types together.

    Where the sizes are not known yet the smallest of these holds for all.
    """
    default = limits.CLIPBOARD_BYTES
    of_records = [one.max_size for one in speaking if one.max_size is not None]
    of_rules = [one.answer.max_size for one in crossing]
    said = [size for size in of_rules if size is not None]
    silent = len(said) < len(of_rules)
    if silent:
        said.append(min(of_records, default=default))
    unknown = any(one.size is None for one in crossing)
    # guard: sizes of records
    return min([min(said) if unknown else max(said), *of_records])


# One question for a paste. A paste of several types could have been one question about
# all, which shows the user a list, or one for each. The question names all types that
# its rule asks about, and their size; types that another rule would ask about are left
# out: people read one question.
def _strictest(
    rules: Iterable[int | None], records: Iterable[int | None], default: float
) -> float:
    said = [value for value in (*rules, *records) if value is not None]
    return min(said, default=default)


def _widest(rules: list[ShownRule], speaking: list[Clipboard]) -> w.CopyTerms:
    """Return the widest terms that rules could allow, within the sandbox's record."""
    types: set[str] = set(DEFAULT_PATTERNS)
    for rule in rules:
        types.update(rule.mime)
    sizes = [rule.max_size for rule in rules]
    times = [rule.ttl for rule in rules]
    size: float = max([limits.CLIPBOARD_BYTES, *(s for s in sizes if s is not None)])
    ttl: float = max([limits.CLIPBOARD_SECONDS, *(t for t in times if t is not None)])
    for record in speaking:
        types = set(record.types) if record.types else types
        size = size if record.max_size is None else record.max_size
        ttl = ttl if record.ttl is None else record.ttl
    primary = bool(speaking) and speaking[0].primary == "rules"
    return w.CopyTerms(tuple(sorted(types)), int(size), ttl, primary)


def _both(one: w.PasteTerms, other: w.PasteTerms) -> w.PasteTerms:
    """Return the terms that satisfy both."""
    return w.PasteTerms(
        patterns=tuple(kind for kind in one.patterns if kind in other.patterns),
        max_bytes=min(one.max_bytes, other.max_bytes),
        ttl=min(one.ttl, other.ttl),
        primary=one.primary and other.primary,
        clean=one.clean | other.clean,
        rule=other.rule,
    )
