"""The format of a record: every table and key of ``sandboxes.d/NAME.toml``.

The one description of the format: the checks, the JSON Schema and the
reference in ``docs/policy.md`` come from it.  What the values become is in
``model``.
"""

from __future__ import annotations

from policy import limits
from policy.records.desktop_tables import (
    AUDIO,
    CLIPBOARD,
    FOLDERS,
    LOOKS,
    NETWORK,
    TRANSFER,
    WINDOW,
)
from policy.records.field_types import (
    Choice,
    Colour,
    Field,
    Table,
    Title,
    Words,
)
from policy.records.launch_table import LAUNCH, LIMITS, PEER, STATE
from policy.records.patterns import (
    NAME,
    PALETTE,
)
from policy.services.record import ServiceTables

TOP = Table(
    "",
    "Identity and permissions of the sandbox.",
    (
        Field(
            "name",
            NAME,
            "The sandbox's name.  May be left out; otherwise it must be the "
            "file's base name.",
            default_words="the file's base name",
            own=True,
        ),
        Field(
            "inherits",
            NAME,
            "Another record, from which every key comes that this one does not "
            "set.  Each sandbox's own are `name`, `class`, `label.name`, "
            "`window.title_prefix` and `[peer]`.",
            own=True,
        ),
        Field(
            "class",
            Choice(
                {
                    "persistent": "one sandbox of this name, which runs until it is stopped "
                    "and keeps what [state] says",
                    "disposable": "a fresh sandbox under a fresh name for each "
                    "start, and nothing of it is left afterwards",
                    "template": "what other sandboxes will be made from; started "
                    "only to be maintained",
                }
            ),
            "How long a sandbox of this record lives.",
            required=True,
            own=True,
        ),
        Field(
            "tags",
            Words(
                NAME,
                f"an array of up to {limits.TAGS} names",
                0,
                limits.TAGS,
                unique=True,
            ),
            "Names by which rules can mean several sandboxes at once.",
            default=[],
        ),
        Field(
            "display",
            Choice(
                {
                    "none": "no windows",
                    "allow": "windows",
                },
                {"waypipe-client": 'the client of waypipe was removed: write "allow"'},
            ),
            "Whether the sandbox may show windows.",
            default="none",
        ),
        Field(
            "timezone",
            Choice(
                {
                    "utc": "UTC; the time zone tells roughly where you are",
                    "desktop": "that of the machine with the screen, in TZ of each "
                    "program that is started by Vitrail",
                }
            ),
            "The time zone of its programs.",
            default="utc",
        ),
        Field(
            "default_disposable",
            NAME,
            "The record of which a fresh sandbox is made when this one calls "
            "`@dispvm` in a rule.",
        ),
        Field(
            "services",
            ServiceTables(),
            "Programs that other sandboxes call where a rule for `vitrail.Call` lets "
            "them (`docs/calls.md`).  A record's `[services]` replace inherited ones.",
            default={},
        ),
    ),
)

LABEL = Table(
    "label",
    "How a user distinguishes the sandbox's windows from others.",
    (
        Field(
            "name",
            Title(limits.LABEL_CHARS),
            "The name shown to people.",
            default_words="the sandbox's name",
            own=True,
        ),
        Field("colour", Colour(PALETTE), "The colour of its frames.", default="grey"),
    ),
)
TABLES = (
    TOP,
    LABEL,
    WINDOW,
    AUDIO,
    CLIPBOARD,
    TRANSFER,
    LOOKS,
    NETWORK,
    FOLDERS,
    LAUNCH,
    STATE,
    PEER,
    LIMITS,
)
INHERITS_KEY = "inherits"
