"""Tables of a record about windows, sound, clipboard, transfers, looks and folders."""

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
    "How its windows are framed, and what of the compositor it sees.",
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
            "Whether the upper edge is a strip with the sandbox's name in it, in the "
            "font that fontconfig has for `Vitrail`, otherwise for bold sans-serif.",
            default=False,
        ),
        Field(
            "top",
            Whole(*limits.BORDER_PIXELS, unit="logical pixels"),
            "Height of the upper edge; a name needs 9.",
            default_words="`border`, with `name_strip` at least 20",
        ),
        Field(
            "title_prefix",
            Title(limits.LABEL_CHARS),
            "Precedes every window title, as `[prefix]`.",
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
                    "imitate anything, your desktop and its prompts too",
                }
            ),
            "The effect of a window's request for fullscreen.",
            default="fake",
        ),
        Field(
            "x11",
            YesNo(),
            "Whether X11 programs of a box, container or Flatpak are shown, by a "
            "separate Xwayland; a machine shows them where its image has Xwayland, "
            "which this key adds to an image made of the packages of [launch].",
            default=False,
        ),
        Field(
            "translucent",
            YesNo(),
            "Whether content below a window may shine through. A translucent "
            "window can imitate an overlay on another one.",
            default=False,
        ),
        Field(
            "subsurfaces",
            Choice(
                {
                    "crop": "what reaches outside its window is cut off",
                    "promote": "what reaches outside its window becomes a framed "
                    "popup, at most nine tenths of the screen and touching its window",
                }
            ),
            "The treatment of parts of a window that reach outside it.",
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
            "Wayland globals that it gets in addition; `brokerctl policy lint` describes "
            "each one.",
            default=[],
        ),
        Field(
            "deny",
            Words(
                GlobalName(deny=True),
                "an array of Wayland globals that applications can do without",
                0,
                limits.GLOBALS,
                unique=True,
            ),
            "Wayland globals that are hidden from it. Deny wins over allow.",
            default=[],
        ),
        Field(
            "windows",
            Whole(*limits.WINDOWS),
            "Windows at one time.",
            default=limits.WINDOWS[1],
        ),
        Field(
            "popups",
            Whole(*limits.POPUPS),
            "Menus and other popups at one time.",
            default=limits.POPUPS[1],
        ),
        Field(
            "surfaces",
            Whole(*limits.SURFACES),
            "Surfaces at one time: windows, popups, their parts, cursors.",
            default=limits.SURFACES[1],
        ),
        Field(
            "buffer_memory",
            Bytes(*limits.WINDOW_BYTES),
            "Shared memory for pixels, as declared.",
            default="32G",
        ),
    ),
)

AUDIO = Table(
    "audio",
    'Playback and recording.  `audio = "WORD"` at the top is short for a '
    "table with `playback` alone.",
    (
        Field(
            "playback",
            Choice(
                {
                    "none": "no sound service at all, so no microphone either",
                    "allow": "its streams through the filter, within the caps below",
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
                    "ask": "a rule for `vitrail.AudioInput` decides, and its allow "
                    "becomes an ask",
                    "allow": "a rule for `vitrail.AudioInput` decides",
                }
            ),
            "The most that a rule may grant of the microphone.",
            default="deny",
        ),
        Field(
            "revoked",
            Choice(
                {
                    "silence": "the application continues and records silence",
                    "end": "its recording ends with an error",
                }
            ),
            "The effect on a recording when the microphone is taken away.",
            default="silence",
        ),
        Field("streams", Whole(*limits.AUDIO_STREAMS), "Streams at one time.", 16),
        Field(
            "rate",
            Whole(*limits.AUDIO_RATE, unit="Hz"),
            "The highest sample rate.",
            192000,
        ),
        Field("channels", Whole(*limits.AUDIO_CHANNELS), "Channels of a stream.", 8),
        Field(
            "buffer",
            Bytes(*limits.AUDIO_BUFFER_BYTES),
            "The largest buffer of a stream.",
            "4M",
        ),
        Field(
            "volume",
            Whole(*limits.AUDIO_VOLUME, unit="percent"),
            "The loudest that it may be.",
            100,
        ),
        Field(
            "idle",
            Seconds(*limits.AUDIO_IDLE_SECONDS),
            "How long a stream is silent before it counts as idle.",
            "10s",
        ),
    ),
    short="playback",
)

CLIPBOARD = Table(
    "clipboard",
    "Limits on data that crosses between its clipboard and another, where a rule for "
    "`vitrail.ClipboardPaste` lets it.  Of this record, the other side's and the "
    "rule the strictest holds.",
    (
        Field(
            "types",
            Words(
                MIME,
                f'an array of 1 to {limits.MIMES} types, as "text/plain" or "image/*"',
                1,
                limits.MIMES,
                unique=True,
            ),
            "Types that may cross.",
            default_words='the rule\'s `mime=`, else `["text/plain", "image/png"]`',
        ),
        Field(
            "max_size",
            Bytes(*limits.CLIPBOARD_BYTES),
            "The most that may cross at once.",
            default_words="the rule's `max-size=`, else 64000",
        ),
        Field(
            "ttl",
            Seconds(*limits.CLIPBOARD_SECONDS),
            "How long a copy may be pasted.",
            default_words='the rule\'s `ttl=`, else `"5m"`',
        ),
        Field(
            "primary",
            Choice(
                {
                    "none": "never leaves or enters it",
                    "rules": "by the chords and rules of the clipboard, where that is empty",
                }
            ),
            "The primary selection (pasted with the middle button).",
            default="none",
        ),
        Field(
            "drag",
            Choice(
                {
                    "none": "never leaves or enters it",
                    "rules": "where both records say so and a clipboard rule allows it",
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
                        "plain": "only plain text comes in",
                        "controls": "control and text direction characters are removed",
                        "images": "images are decoded and encoded again, in the worker",
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
    "How much it may send by `vitrail.FileCopy` and `vitrail.OpenFile`, where a rule "
    "lets it; the stricter of this and the rule's `max-size=` holds.",
    (
        Field("file_size", Bytes(*limits.TRANSFER_BYTES), "One file.", "2G"),
        Field(
            "request_size",
            Bytes(*limits.TRANSFER_BYTES),
            "All files of one request.",
            "4G",
        ),
        Field(
            "request_files",
            Whole(*limits.TRANSFER_FILES),
            "Files and directories of one request.",
            10000,
        ),
        Field(
            "day_size",
            Bytes(*limits.TRANSFER_BYTES),
            "All files within 24 hours.",
            "20G",
        ),
        Field(
            "day_requests",
            Whole(*limits.TRANSFER_REQUESTS),
            "Requests within 24 hours, addresses to open included.",
            1000,
        ),
        Field(
            "keep_free",
            Bytes(*limits.TRANSFER_FREE_BYTES),
            "Space that must stay free on its disk after a transfer to it.",
            "100M",
        ),
    ),
)


_SCHEMES = {"default": "no preference", "dark": "dark", "light": "light"}
_CONTRASTS = {"normal": "as usual", "high": "high"}


def _look(key: str, kind: Kind, what: str) -> Field:
    return Field(key, kind, what, default_words="as on your desktop")


LOOKS = Table(
    "looks",
    "Desktop settings that the sandbox receives instead of yours, where a rule for "
    "`vitrail.Settings` allows it.  A change holds for running ones.",
    (
        _look("color_scheme", Choice(_SCHEMES), "The preferred colour scheme."),
        _look("accent_color", Colour(PALETTE), "The colour of the selection."),
        _look("contrast", Choice(_CONTRASTS), "The contrast of text."),
        _look("text_scale", Whole(50, 300, "percent"), "The size of text."),
        _look("cursor_size", Whole(8, 256, "pixels"), "The size of the pointer."),
        _look("font", Title(100), 'The font, as "Cantarell 11".'),
        _look("document_font", Title(100), "The font of documents."),
        _look("monospace_font", Title(100), "The font of code."),
        Field(
            "language",
            LOCALE,
            "The locale of each program that Vitrail starts, without a rule: that of "
            'your desktop now ("desktop"), or this one.',
            default_words="that of the sandbox's start",
        ),
    ),
)

NETWORK = Table(
    "network",
    'What flows of a sandbox with `launch.network = "rules"` may take.  A change holds '
    "for running ones.",
    (
        Field(
            "flows",
            Whole(*limits.NETWORK_FLOWS),
            "Open flows.",
            limits.NETWORK_FLOWS[1],
        ),
        Field(
            "new_flows",
            Whole(*limits.NETWORK_NEW_FLOWS),
            "New flows a second; twice as many at once.",
            limits.NETWORK_NEW_FLOWS[1],
        ),
        Field(
            "lookups",
            Whole(*limits.NETWORK_LOOKUPS),
            "Questions for addresses a second; four times as many at once.",
            limits.NETWORK_LOOKUPS[1],
        ),
        Field(
            "send_rate",
            Bytes(*limits.NETWORK_RATE),
            "Bytes a second that it sends, of all flows together.",
            default_words="as fast as they are carried",
        ),
        Field(
            "receive_rate",
            Bytes(*limits.NETWORK_RATE),
            "Bytes a second that it receives, of all flows together.",
            default_words="as fast as they are carried",
        ),
        Field(
            "ech",
            Choice(
                {
                    "allow": "the outer server's name is compared",
                    "deny": "the connection is ended; browsers offer it in each "
                    "connection, with random content where they have no key",
                }
            ),
            "TLS connections whose hello has an encrypted part.",
            default="allow",
        ),
    ),
)

FOLDERS = Table(
    "folders",
    "Your directories that it has from its start, at `/folders/NAME`, where a rule "
    "for `vitrail.Folder` lets it.",
    (
        Field(
            "read_only",
            PATHS,
            "Directories that it can read.",
            default=[],
        ),
        Field(
            "read_write",
            PATHS,
            "Directories that it can change; the rule needs `write=yes`.",
            default=[],
        ),
    ),
)
