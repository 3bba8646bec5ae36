"""The format of a record: every table and key of ``sandboxes.d/NAME.toml``.

The one description of the format: the checks, the JSON Schema and the
reference in ``docs/policy.md`` come from it.  What the values become is in
``model``.

The authority, session children and brokerctl run this when they read records.
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
from policy.records.mounts.mount_tables import DiskTables, MountTables
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
            "The sandbox's name.  If it is set, it must be the file's base name.",
            default_words="the file's base name",
            own=True,
        ),
        Field(
            "inherits",
            NAME,
            "Another record, which provides every key that this one does not set.  "
            "`name`, `class`, `label.name`, `window.title_prefix` and `[peer]` are never inherited.",
            own=True,
        ),
        Field(
            "class",
            Choice(
                {
                    "persistent": "one sandbox of this name, which runs until it is stopped and keeps the data that [state] names",
                    "disposable": "a new sandbox with a new name for each start, which is deleted when it stops",
                    "template": "a template for other sandboxes; it is started only for maintenance",
                }
            ),
            "The lifetime of a sandbox of this record.",
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
            "Names by which rules can refer to several sandboxes at once.",
            default=[],
        ),
        Field(
            "display",
            Choice(
                {
                    "none": "no windows",
                    "allow": "windows",
                },
                {"waypipe-client": 'write "allow"; the waypipe client was removed'},
            ),
            "Whether the sandbox may show windows.",
            default="none",
        ),
        Field(
            "timezone",
            Choice(
                {
                    "utc": "UTC; a local time zone reveals roughly where you are",
                    "desktop": "the time zone of the viewer's machine, in TZ of each program that Vitrail starts",
                }
            ),
            "The time zone of the sandbox's programs.",
            default="utc",
        ),
        Field(
            "autostart",
            Choice(
                {
                    "none": "it is started by you, or by a rule that needs it",
                    "login": "your desktop starts it when you log in, as the menu entry would",
                }
            ),
            "Whether the sandbox is started with your desktop (Desktop Application "
            "Autostart Specification).",
            default="none",
            own=True,
        ),
        Field(
            "logs",
            Choice(
                {
                    "delete": "deleted at its end; those of a start that failed stay",
                    "keep": "kept like those of a persistent sandbox",
                }
            ),
            "What becomes of the logs of a sandbox that is not persistent: its console, "
            "and the output of its programs.  The audit log is kept in any case.",
            default="delete",
        ),
        Field(
            "default_disposable",
            NAME,
            "The record from which a new sandbox is created when this one calls "
            "`@dispvm` in a rule.",
        ),
        Field(
            "services",
            ServiceTables(),
            "Programs that other sandboxes may call where a rule for `vitrail.Call` "
            "allows it (`docs/calls.md`).  A record's `[services]` tables replace inherited ones.",
            default={},
        ),
        Field(
            "mounts",
            MountTables(),
            "File systems in memory, and directories of yours, at paths of the sandbox "
            "(`docs/folders.md`).  A record's `[[mounts]]` tables replace inherited ones.",
            default=[],
        ),
        Field(
            "disks",
            DiskTables(),
            "Images of yours that are disks of a micro VM, where a rule for "
            "`vitrail.Block` allows it (`docs/folders.md`).  A record's `[[disks]]` "
            "tables replace inherited ones.",
            default=[],
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
            "The name shown to users.",
            default_words="the sandbox's name",
            own=True,
        ),
        Field(
            "colour",
            Colour(PALETTE),
            "The colour of the sandbox's frames.",
            default="grey",
        ),
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
