"""The outcome of a copy or a paste, for the log and for the user.

The log first: unrecorded content does not cross.  Names in the texts are
sandboxes' validated ones; types are well-formed ones, and escaped again by
the code that shows them.

The viewer runs it; ``brokerctl clipboard`` has its words of types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from broker.authority.audit import event_log
from broker.core.clipboard.types import PNG, TEXT
from broker.core.lease import Lease
from broker.core.notify import Notify
from broker.core.services import CLIPBOARD_PASTE
from broker.ipc.audit import schema
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.files import URI_LIST

_WORDS: Mapping[str, str] = MappingProxyType({TEXT: "text", PNG: "a picture"})
_FILES = (URI_LIST,)
_UNITS = ((1_000_000, "MB"), (1000, "kB"))
_YOURS = "your own programs"


def in_words(size: int) -> str:
    """Format a size for people: ``12 kB``; in thousands, as the limits are."""
    for unit, name in _UNITS:
        if size >= unit:
            return (
                f"{size / unit:.3g} {name}"
                if size < 10 * unit
                else f"{size // unit} {name}"
            )
    return f"{size} bytes"


def what(record: w.RecordCrossing) -> str:
    """Describe content for people: ``12 kB of text``, ``text and a picture (3 MB)``."""
    kinds = [_WORDS.get(kind, kind) for kind in record.kinds]
    if not kinds:
        return "something"
    if record.kinds == _FILES:
        return f"{record.size} files" if record.size > 1 else "a file"
    if len(kinds) == 1 and record.kinds[0] == TEXT:
        return f"{in_words(record.size)} of text"
    return f"{' and '.join(kinds)} ({in_words(record.size)})"


def name(party: str) -> str:
    """Return a member's name for a user."""
    return _YOURS if party == w.VIEWER else party


class Telling:
    """Records and notifies for one viewer's clipboard."""

    def __init__(
        self,
        log: event_log.EventLog,
        lease: Callable[[str], Lease | None],
        notify: Notify,
        paste_chord: Callable[[], str],
    ) -> None:
        self._log = log
        self._lease = lease
        self._notify = notify
        self._paste_chord = paste_chord

    async def tell(self, record: w.RecordCrossing) -> None:
        """Record an outcome in the log, then notify the user.

        Raises UpstreamError for an event that has to be recorded before it happens,
        and could not be.
        """
        await self._write(record)
        told = self.words(record)
        if told is not None:
            self._notify(*told, sandbox=_charged(record))

    # -- the log -----------------------------------------------------------------------

    async def _write(self, record: w.RecordCrossing) -> None:
        """Write the outcome's event to the log."""
        match record.outcome:
            case w.Outcome.COPIED:
                await self._log.note(
                    schema.ClipboardOffered(
                        **self._whose(record),
                        mimes=list(record.kinds),
                        selection=record.selection,
                        bytes=record.size,
                        digest=record.digest,
                    )
                )
            case w.Outcome.PASTED | w.Outcome.EXPORTED:
                # guard: recorded before it is offered
                await self._log.require(self._pasted(record))
            case w.Outcome.EXPIRED | w.Outcome.CLEARED:
                await self._log.note(self._ended(record))
            case w.Outcome.REFUSED | w.Outcome.DROPPED:
                await self._log.refused(self._ended(record))

    def _pasted(self, record: w.RecordCrossing) -> schema.ClipboardPasted:
        """Return the log event of a paste."""
        more = {"mimes": list(record.kinds)} if len(record.kinds) > 1 else {}
        return schema.ClipboardPasted(
            **self._whose(record),
            target=record.target,
            mime=record.kinds[0] if record.kinds else "",
            selection=record.selection,
            bytes=record.size,
            digest=record.digest,
            rule=record.rule,
            detail=dict(more),
        )

    def _ended(self, record: w.RecordCrossing) -> schema.ClipboardEnded:
        """Return the log event of a copy or paste that failed or expired."""
        return schema.ClipboardEnded(
            **self._whose(record),
            outcome=record.outcome.value,
            reason=record.reason,
            target=record.target,
            mimes=list(record.kinds),
            bytes=record.size,
            rule=record.rule,
        )

    def _whose(self, record: w.RecordCrossing) -> event_log.EventSubject:
        lease = self._lease(record.source)
        if lease is not None:
            return event_log.of(lease)
        return event_log.EventSubject(sandbox=record.source, lease="", generation=0)

    def _record_of(self, source: str) -> str:
        """Return the name of this sandbox in a rule."""
        lease = self._lease(source)
        return source if lease is None else lease.record or source

    # -- the user -----------------------------------------------------------------------

    def words(self, record: w.RecordCrossing) -> tuple[str, str] | None:
        """Return the title and text of a notification on a copy or paste, if any."""
        source, target = name(record.source), name(record.target)
        way = (
            f"{source} → {target}"
            if record.source and record.target
            else (source or target)
        )
        match record.outcome:
            case w.Outcome.COPIED:
                text = f"press {self._paste_chord()} in a sandbox to paste it once"
                if not record.outward:
                    owner = self._record_of(record.source)
                    text += f"\n(to paste it in your own programs, write the rule: {CLIPBOARD_PASTE} * {owner} @adminvm ask)"
                return f"Copied {what(record)} from {source}", text + _window(record)
            case w.Outcome.PASTED:
                text = _given(record) + _window(record)
                return f"{what(record)}: {way}", text
            case w.Outcome.EXPORTED:
                text = f"by {record.rule}"
                if record.selection != "drag":
                    text += f"; paste it there as usual{_window(record)}"
                return f"{what(record)}: {way}", text
            case w.Outcome.EXPIRED if record.selection == "drag":
                return f"Not dropped: {way}", "the window did not accept it"
            case w.Outcome.EXPIRED:
                return f"Clipboard wiped: {way}", "the content expired"
            case w.Outcome.CLEARED:
                title = (
                    "Not dropped" if record.selection == "drag" else "Clipboard wiped"
                )
                return f"{title}: {way}", record.reason
            case w.Outcome.REFUSED | w.Outcome.DROPPED:
                return f"Not {_verb(record)}: {way}", record.reason


def _charged(record: w.RecordCrossing) -> str:
    """Return whose budget of notifications is charged; empty: it is always shown.

    A refusal can be provoked without end by the side that acted, or that claims a
    chord; the user has to see content that crossed, or is held ready to cross.
    """
    if record.outcome not in {w.Outcome.REFUSED, w.Outcome.DROPPED}:
        # guard: content that crossed is reported whatever the budget is
        return ""
    asked = record.source if record.selection == "drag" else record.target
    sandboxes = [p for p in (asked, record.source, record.target) if p != w.VIEWER]
    return next((party for party in sandboxes if party), "")


def _given(record: w.RecordCrossing) -> str:
    """Return the text about a finished paste: its rule, and what to do next."""
    if record.selection == "drag":
        return f"dropped, by {record.rule}"
    # Their own clipboard stays as it is.
    wiped = "" if record.source == w.VIEWER else ", the clipboard is cleared"
    return f"by {record.rule}; paste it there as usual{wiped}"


def _window(record: w.RecordCrossing) -> str:
    """Return the last line of a text: the window in which it was copied."""
    return f"\n(copied in the window titled {record.window})" if record.window else ""


def _verb(record: w.RecordCrossing) -> str:
    if record.selection == "drag":
        return "dropped"
    if record.target == w.VIEWER:
        return "copied to your own programs"
    return "pasted" if record.target else "copied"
