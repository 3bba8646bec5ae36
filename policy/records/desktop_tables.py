"""Tables of a record about windows, sound, clipboard, transfers, looks and folders.

The authority, session children and brokerctl run this when they read records.
"""

from __future__ import annotations

from policy import limits
from policy.records.field_types import (
    Choice,
    Colour,
    Field,
    Kind,
    Table,
    Title,
    Whole,
    Words,
)
from policy.records.patterns import LOCALE, MIME, PALETTE, PATHS
from policy.records.quantities import Bytes, GlobalName, Seconds, YesNo

WINDOW = Table(
    "window",
    "Frames of the sandbox's windows, and the Wayland globals that it may use.",
    (
        Field(
            "border",
            Whole(*limits.BORDER_PIXELS, unit="logical pixels"),
            "Width of the frame, in the label's colour.",
            default=4,
        ),
        Field(
            "name_strip",
            YesNo(),
            "Whether the upper edge shows the sandbox's name, in the font that "
            "fontconfig selects for `Vitrail`, or else for bold sans-serif.",
            default_words="true where the desktop draws no title bar: on GNOME, and for "
            "programs that draw their own (GTK); false elsewhere",
        ),
        Field(
            "top",
            Whole(*limits.BORDER_PIXELS, unit="logical pixels"),
            "Height of the upper edge; a name needs at least 9.",
            default_words="`border`, but at least 20 with a name",
        ),
        Field(
            "title_prefix",
            Title(limits.LABEL_CHARS),
            "Text that precedes every window title, as `[prefix]`.",
            default_words="`label.name`",
            own=True,
        ),
        Field(
            "fullscreen",
            Choice(
                {
                    "fake": "a maximised window with its frame, reported to the "
                    "application as fullscreen",
                    "framed": "the whole screen, with the frame",
                    "real": "the whole screen without a frame: the application can "
                    "imitate anything, including your desktop and its prompts",
                }
            ),
            "The effect of a window's request for fullscreen.",
            default="framed",
        ),
        Field(
            "x11",
            YesNo(),
            "Whether X11 programs are shown, those of a box, container or Flatpak by a "
            "separate Xwayland. A machine needs Xwayland in its image; this key adds it to "
            "an image built from the packages of [launch].",
            default=False,
        ),
        Field(
            "translucent",
            YesNo(),
            "Whether windows may be translucent. A translucent window can imitate an overlay on another window.",
            default=False,
        ),
        Field(
            "subsurfaces",
            Choice(
                {
                    "crop": "parts outside their window are cut off",
                    "promote": "parts outside their window become a framed popup, "
                    "which touches the window and covers at most nine tenths of the screen",
                }
            ),
            "How parts of a window that extend outside it are shown.",
            default="crop",
        ),
        Field(
            "allow",
            Words(
                GlobalName(),
                "an array of Wayland globals that a record may allow: "
                + GlobalName().words,
                0,
                limits.GLOBALS,
                unique=True,
            ),
            "Additional Wayland globals that the sandbox may use; `brokerctl policy lint` describes "
            "each one.",
            default=[],
        ),
        Field(
            "deny",
            Words(
                GlobalName(deny=True),
                "an array of optional Wayland globals",
                0,
                limits.GLOBALS,
                unique=True,
            ),
            "Wayland globals that are hidden from the sandbox. Deny overrides allow.",
            default=[],
        ),
        Field(
            "windows",
            Whole(*limits.WINDOWS),
            "Maximum number of windows.",
            default=limits.WINDOWS[1],
        ),
        Field(
            "popups",
            Whole(*limits.POPUPS),
            "Maximum number of menus and other popups.",
            default=limits.POPUPS[1],
        ),
        Field(
            "surfaces",
            Whole(*limits.SURFACES),
            "Maximum number of surfaces: windows, popups, subsurfaces and cursors.",
            default=limits.SURFACES[1],
        ),
        Field(
            "buffer_memory",
            Bytes(*limits.WINDOW_BYTES),
            "Maximum shared memory for pixels, as declared by applications.",
            default="32G",
        ),
    ),
)

AUDIO = Table(
    "audio",
    'Playback and recording.  `audio = "WORD"` at the top is short for a table with '
    "only `playback`.",
    (
        Field(
            "playback",
            Choice(
                {
                    "none": "no sound service, and therefore no microphone",
                    "allow": "sound through the filter, within the limits below",
                    "raw": "the sound server's socket without a filter: it can "
                    "record you and every application, and load modules",
                }
            ),
            "Whether the sandbox may play sound, and how.",
            default="none",
        ),
        Field(
            "microphone",
            Choice(
                {
                    "deny": "never, whatever a rule says",
                    "ask": "a rule for `vitrail.AudioInput` decides, but its allow becomes an ask",
                    "allow": "a rule for `vitrail.AudioInput` decides",
                }
            ),
            "The most permissive answer that a rule may give for the microphone.",
            default="deny",
        ),
        Field(
            "revoked",
            Choice(
                {
                    "silence": "the application continues and records silence",
                    "end": "the recording ends with an error",
                }
            ),
            "What happens to a recording when access to the microphone is revoked.",
            default="silence",
        ),
        Field(
            "streams", Whole(*limits.AUDIO_STREAMS), "Maximum number of streams.", 16
        ),
        Field(
            "rate",
            Whole(*limits.AUDIO_RATE, unit="Hz"),
            "Maximum sample rate.",
            192000,
        ),
        Field(
            "channels",
            Whole(*limits.AUDIO_CHANNELS),
            "Maximum number of channels of a stream.",
            8,
        ),
        Field(
            "buffer",
            Bytes(*limits.AUDIO_BUFFER_BYTES),
            "Maximum buffer size of a stream.",
            "4M",
        ),
        Field(
            "volume",
            Whole(*limits.AUDIO_VOLUME, unit="percent"),
            "Maximum volume.",
            100,
        ),
        Field(
            "idle",
            Seconds(*limits.AUDIO_IDLE_SECONDS),
            "Duration of silence after which a stream counts as idle.",
            "10s",
        ),
    ),
    short="playback",
)

CLIPBOARD = Table(
    "clipboard",
    "Limits on data copied between the sandbox's clipboard and another one, where a "
    "rule for `vitrail.ClipboardPaste` allows it.  The strictest limit of this record, "
    "the other side's record and the rule applies.",
    (
        # No default: 'the strictest limit applies' has to know whether the record has one.
        Field(
            "types",
            Words(
                MIME,
                f'an array of 1 to {limits.MIMES} types, such as "text/plain" or "image/*"',
                1,
                limits.MIMES,
                unique=True,
            ),
            "MIME types that may be copied.",
            default_words='the rule\'s `mime=`, or else `["text/plain", "image/png"]`',
        ),
        Field(
            "max_size",
            Bytes(*limits.CLIPBOARD_BYTES),
            "Maximum size of one paste.",
            default_words="the rule's `max-size=`, or else 64000",
        ),
        Field(
            "ttl",
            Seconds(*limits.CLIPBOARD_SECONDS),
            "How long copied data may be pasted.",
            default_words='the rule\'s `ttl=`, or else `"5m"`',
        ),
        Field(
            "primary",
            Choice(
                {
                    "none": "never leaves or enters the sandbox",
                    "rules": "uses the key bindings and rules of the clipboard while the clipboard is empty",
                }
            ),
            "The primary selection (pasted with the middle button).",
            default="none",
        ),
        Field(
            "drag",
            Choice(
                {
                    "none": "never leaves or enters the sandbox",
                    "rules": "allowed if both records say so and a clipboard rule allows it",
                }
            ),
            "Drags from or to another sandbox's window.",
            default="none",
        ),
        Field(
            "clean",
            Words(
                Choice(
                    {
                        "plain": "only plain text is accepted",
                        "controls": "control and text direction characters are removed",
                        "images": "the worker decodes images and encodes them again",
                    }
                ),
                'an array of "plain", "controls", "images"',
                0,
                3,
                unique=True,
            ),
            "Filters for incoming content.",
            default=[],
        ),
    ),
)

TRANSFER = Table(
    "transfer",
    "Limits on data that the sandbox sends by `vitrail.FileCopy` and "
    "`vitrail.OpenFile`, where a rule allows it.  The stricter of this and the rule's `max-size=` applies.",
    (
        Field(
            "file_size",
            Bytes(*limits.TRANSFER_BYTES),
            "Maximum size of one file.",
            "2G",
        ),
        Field(
            "request_size",
            Bytes(*limits.TRANSFER_BYTES),
            "Maximum total size of the files of one request.",
            "4G",
        ),
        Field(
            "request_files",
            Whole(*limits.TRANSFER_FILES),
            "Maximum number of files and directories of one request.",
            10000,
        ),
        Field(
            "day_size",
            Bytes(*limits.TRANSFER_BYTES),
            "Maximum total size of all files within 24 hours.",
            "20G",
        ),
        Field(
            "day_requests",
            Whole(*limits.TRANSFER_REQUESTS),
            "Maximum number of requests within 24 hours, including addresses to open.",
            1000,
        ),
        Field(
            "keep_free",
            Bytes(*limits.TRANSFER_FREE_BYTES),
            "Space that must remain free on the sandbox's disk after a transfer to it.",
            "100M",
        ),
    ),
)


_SCHEMES = {"default": "no preference", "dark": "dark", "light": "light"}
_CONTRASTS = {"normal": "normal contrast", "high": "high contrast"}


def _look(key: str, kind: Kind, what: str) -> Field:
    return Field(key, kind, what, default_words="as on your desktop")


LOOKS = Table(
    "looks",
    "Desktop settings that the sandbox receives instead of yours, where a rule for "
    "`vitrail.Settings` allows it.  Changes apply to running sandboxes.",
    (
        _look("color_scheme", Choice(_SCHEMES), "The preferred colour scheme."),
        _look("accent_color", Colour(PALETTE), "The colour of the selection."),
        _look("contrast", Choice(_CONTRASTS), "Whether text has high contrast."),
        _look("text_scale", Whole(50, 300, "percent"), "The size of text."),
        _look("cursor_size", Whole(8, 256, "pixels"), "The size of the pointer."),
        _look("font", Title(100), 'The font, such as "Cantarell 11".'),
        _look("document_font", Title(100), "The font for documents."),
        _look("monospace_font", Title(100), "The monospace font."),
        Field(
            "language",
            LOCALE,
            "The locale of each program that Vitrail starts: the current locale of "
            'your desktop ("desktop"), or the given one. No rule is needed.',
            default_words="the desktop's locale at the sandbox's start",
        ),
    ),
)

NETWORK = Table(
    "network",
    'Limits on the network flows of a sandbox with `launch.network = "rules"`.  '
    "Changes apply to running sandboxes.",
    (
        Field(
            "flows",
            Whole(*limits.NETWORK_FLOWS),
            "Maximum number of open flows.",
            limits.NETWORK_FLOWS[1],
        ),
        Field(
            "new_flows",
            Whole(*limits.NETWORK_NEW_FLOWS),
            "Maximum rate of new flows per second; bursts may be twice as large.",
            limits.NETWORK_NEW_FLOWS[1],
        ),
        Field(
            "lookups",
            Whole(*limits.NETWORK_LOOKUPS),
            "Maximum rate of address lookups per second; bursts may be four times as large.",
            limits.NETWORK_LOOKUPS[1],
        ),
        Field(
            "send_rate",
            Bytes(*limits.NETWORK_RATE),
            "Maximum bytes per second that the sandbox sends over all flows.",
            default_words="unlimited",
        ),
        Field(
            "receive_rate",
            Bytes(*limits.NETWORK_RATE),
            "Maximum bytes per second that the sandbox receives over all flows.",
            default_words="unlimited",
        ),
        Field(
            "ech",
            Choice(
                {
                    "allow": "rules match the outer server name",
                    "deny": "the connection is closed; browsers offer ECH in each "
                    "connection, with random content if they have no key",
                }
            ),
            "Handling of TLS connections with Encrypted Client Hello (ECH).",
            default="allow",
        ),
    ),
)

FOLDERS = Table(
    "folders",
    "Directories of yours that are shared with the sandbox from its start, at "
    "`/folders/NAME`, where a rule for `vitrail.Folder` allows it.",
    (
        Field(
            "read_only",
            PATHS,
            "Directories that the sandbox can read.",
            default=[],
        ),
        Field(
            "read_write",
            PATHS,
            "Directories that the sandbox can change; the rule needs `write=yes`.",
            default=[],
        ),
    ),
)
