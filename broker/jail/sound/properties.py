"""Property lists: the properties of a sandbox that may reach the sound server.

A list of allowed properties, not of forbidden ones: on PipeWire a property moves
a stream to another device (``target.object``), and names of hosts, users,
windows and processes are private.  ``media.role`` is left out as
well: sound servers remember the volume of a role for all programs together,
so one sandbox could turn down another's.

The worker runs it; brokerctl has of it the name of one property.
"""

from __future__ import annotations

from broker.core.escape import hidden
from broker.core.limits import sound as limits
from broker.jail.sound.tagstruct import Format, Properties

ALLOWED = frozenset(
    {
        "media.name",
        "media.title",
        "media.artist",
        "application.name",
        "application.language",
    }
)
LABELLED = ("application.name", "media.name")
"""Properties that mixers display: their values begin with the sandbox's name."""
SANDBOX_KEY = "vitrail.sandbox"
"""Which sandbox a client or stream of the sound server belongs to."""

_FORMAT_KEYS = frozenset(
    {
        "format.sample_format",
        "format.rate",
        "format.channels",
        "format.channel_map",
    }
)
_FORMAT_VALUE_BYTES = 1024
PCM = 1
_ENCODING_ANY = 0


def clean_text(untrusted_value: bytes | str) -> str:
    """Return a text that a mixer may show: one line, printable, not long."""
    if isinstance(untrusted_value, str):
        text = untrusted_value
    else:
        most = 4 * limits.PULSE_PROPERTY_CHARS + 4
        text = untrusted_value[:most].rstrip(b"\0").decode("utf-8", "replace")
    text = text[: limits.PULSE_PROPERTY_CHARS]
    # guard: hidden characters (pulse)
    return "".join("_" if hidden(c) else c for c in text)


def value(text: str) -> bytes:
    """A text as a property's value."""
    return text.encode() + b"\0"


# A sandbox's sound has no role, and its icon is ours. The prototype let `media.role`
# through from a list. Both session managers remember volume and mute by role before
# they look at a name, for all programs together: a sandbox that plays music quietly
# would have turned down the user's music, and read their volume. So no role is passed
# on, and a mixer shows the icon that we give instead of an icon that imitates another
# program. `media.name` carries the label as `application.name` does, because some
# mixers show only that.
class Labels:
    """Writes and removes the label of one sandbox."""

    def __init__(self, name: str, icon: str) -> None:
        self._prefix = f"[{name}]"
        self._names: set[str] = set()
        self._fixed = {SANDBOX_KEY: value(name), "application.icon_name": value(icon)}

    def client(self, untrusted: Properties) -> Properties:
        """The properties of a connection; always has a name."""
        kept = _allowed(untrusted)
        name = kept.get("application.name") or kept.get("media.name", "")
        return self._labelled({"application.name": name} | kept)

    def stream(self, untrusted: Properties) -> Properties:
        """The properties of a new stream; always has a title."""
        kept = _allowed(untrusted)
        return self._labelled({"media.name": ""} | kept)

    def update(self, untrusted: Properties) -> Properties:
        """The changes of either."""
        return self._labelled(_allowed(untrusted))

    def _labelled(self, kept: dict[str, str]) -> Properties:
        """Return a client's properties, with the sandbox's label before its names."""
        name = kept.get("application.name", "")
        if name and name not in self._names:
            # guard: names of applications
            if len(self._names) < limits.PULSE_NAMES:
                self._names.add(name)
            else:  # each is remembered on the user's disk
                kept = kept | {"application.name": ""}
        # guard: the label
        named = {
            key: f"{self._prefix} {text}".rstrip() if key in LABELLED else text
            for key, text in kept.items()
        }
        return {key: value(text) for key, text in named.items()} | self._fixed

    def for_guest(self, found: Properties) -> Properties:
        """Return the sandbox's own properties as it sees them: without our label."""
        return {
            key: value(self.bare(data.rstrip(b"\0").decode("utf-8", "replace")))
            for key, data in found.items()
            if key in ALLOWED
        }

    def bare(self, text: str) -> str:
        """A text without the label."""
        return text.removeprefix(self._prefix).removeprefix(" ")


def _allowed(untrusted: Properties) -> dict[str, str]:
    # guard: property list
    return {
        key: clean_text(untrusted[key]) for key in sorted(ALLOWED) if key in untrusted
    }


def pcm_formats(untrusted: list[Format]) -> list[Format]:
    """Return the formats that are plain samples.

    Coded sound would bypass every volume.
    """
    # guard: coded sound
    return [
        Format(
            form.encoding,
            {
                key: data
                for key, data in form.properties.items()
                if key in _FORMAT_KEYS and len(data) <= _FORMAT_VALUE_BYTES
            },
        )
        for form in untrusted
        if form.encoding in {_ENCODING_ANY, PCM}
    ]
