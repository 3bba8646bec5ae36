"""Rows of the messages between the authority and the broker's process that asks it.

Keys are the messages' names.  The asking process may have been taken over: what it may
not say ends its channel, and the broker.  The authority is believed.
"""

from __future__ import annotations

from collections.abc import Mapping

from docs.tables.channel import ChannelPolicy, no_descriptors

_CLIENT = "the broker's process: host, viewer, or both"
_LINKED = "a broker of two machines"
_AUTHORITY = "the authority"
_ONE = (
    "decoding one message of AUTHORITY_REQUEST_BYTES at most, one of AUTHORITY_REQUESTS"
)
_FREE = "decoding one message of AUTHORITY_REQUEST_BYTES at most"
_TOLD = "decoding one message of AUTHORITY_ANSWER_BYTES at most"


def _asks(
    when: str, gain: str, cost: str = _ONE, sender: str = _CLIENT
) -> ChannelPolicy:
    return no_descriptors(sender, when, cost, gain)


def _tells(when: str) -> ChannelPolicy:
    return no_descriptors(_AUTHORITY, when, _TOLD, "The sender decides anyway.")


AUTHORITY: Mapping[str, ChannelPolicy] = {
    "AskPermit": _asks(
        "for a lease that it has announced; a host of two machines never",
        "What the rules allow for that sandbox, or a question to the user, in the "
        "authority's words; one that names an answer that the user has not given, or a "
        "way or a claim that its service has not, ends the channel.",
    ),
    "PermitOver": _asks("for a request that it has sent", "None: it gives up.", _FREE),
    "PermitGone": _asks(
        "for a request for sound that it has sent", "None: it gives up.", _FREE
    ),
    "RenewWarrant": _asks(
        "for a request that it has sent",
        "None: what a permit has begun goes on while that is there.",
        f"{_FREE}, and one signature",
    ),
    "AskChoice": _asks(
        "for leases that it has announced, all about one device; a host of two "
        "machines never",
        "A question to the user about who gets a device, in the authority's words; the "
        "answer is theirs.",
    ),
    "AskPreview": _asks(
        "for AUTHORITY_PREVIEWS requests at most; a host of two machines never",
        "What the rules say of them, which permits nothing.",
        f"{_ONE}; one decision for each request, which is not recorded",
    ),
    "AskRules": _asks(
        "at any time; a host of two machines never",
        "The rules about a service, to be shown.",
    ),
    "ShowQuestion": _asks(
        "at any time; a host of two machines never",
        "The dialog of a waiting question in front, which takes no answer for a second.",
        f"{_FREE}; passed on once in PROMPT_RAISES_SECONDS",
    ),
    "RecordEvent": _asks(
        "for kinds of its role, about sandboxes of its channel",
        "Wrong words about its sandboxes, as far as their share of the log goes.",
        "one event of AUDIT_EVENT_BYTES at most, flushed to the disk; refusals are "
        "counted together",
    ),
    "Acted": _asks(
        "for a lease that runs",
        "A gesture of its sandbox, for rules that ask for one.",
        _FREE,
    ),
    "NotifyUser": _asks(
        "at any time",
        "Text on the screen, escaped; the oldest of too many are left out.",
        "NOTIFICATIONS_WAITING wait, one is shown at a time",
    ),
    "AnnounceLease": _asks(
        "for a lease whose id was never another sandbox's",
        "What the rules allow for a sandbox of that name.",
        "AUTHORITY_LEASES are known",
    ),
    "EndLease": _asks("at any time", "None: its permits and grants end."),
    "Reload": _asks(
        "at any time",
        "None: the files are followed anyway.",
        "one reading of the files for all who wait, in a thread",
    ),
    "AskReport": _asks("at any time; every five seconds by itself", "Counts."),
    "ServeControl": _asks("once, when the broker is ready", "None."),
    "Stop": _asks("last", "The end of the broker, which ends it, too."),
    "AskCheckpoint": _asks(
        "at any time", "The log's newest checkpoint, which is public.", sender=_LINKED
    ),
    "AskEvidence": _asks(
        "at any time",
        "Hashes and keys, which are public.",
        "one proof in the log's thread, AUDIT_WITNESS_KEYS keys",
        _LINKED,
    ),
    "CheckpointWitnessed": _asks(
        "for AUTHORITY_PEERS peers at most",
        "Claims that a peer keeps a checkpoint.",
        "one row of the log's file for each peer",
        _LINKED,
    ),
    "CompareCheckpoint": _asks(
        "at any time", "None: whether a checkpoint fits.", sender=_LINKED
    ),
    "HoldCheckpoint": _asks(
        "for AUTHORITY_PEERS peers at most",
        "None: kept checkpoints were signed and proved by the peer's log.",
        "signatures and a proof; AUDIT_WITNESSED checkpoints of AUDIT_WITNESS_LOGS "
        "logs are kept of a peer",
        _LINKED,
    ),
    "Welcome": _tells("first, when the log is open"),
    "Policy": _tells("when other rules or records are in force"),
    "RecordChanged": _tells("before Policy, for each record that differs"),
    "RecordGone": _tells("before Policy, for each record that was removed"),
    "Permitted": _tells("once for a request that is permitted and on record"),
    "PermitNow": _tells("while a permit holds"),
    "PermitCut": _tells("when a permit ends, before that is recorded"),
    "Previewed": _tells("once for a preview"),
    "RulesShown": _tells("once for a question about rules"),
    "QuestionWaits": _tells("when another question is on the screen, or it is covered"),
    "Asking": _tells("while the user is being asked"),
    "Chosen": _tells("once for a choice"),
    "AuthorityDone": _tells("once for a request; for a permit when it has ended"),
    "Failed": _tells("once for a request, or for its start"),
    "ShareUsedUp": _tells("when a record's share of the log is used up"),
    "Report": _tells("once for a request"),
    "CheckpointMade": _tells("with each checkpoint of the log"),
    "NewestCheckpoint": _tells("once for a request"),
    "Evidence": _tells("once for a request"),
    "Compared": _tells("once for a request"),
    "CheckpointHeld": _tells("once for a request"),
}
