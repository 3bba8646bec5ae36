"""What a sandbox wants, of which the authority sends English words, in other languages.

Sans-IO.  The authority's words are a phrase of ``policy.rules.wording`` with values that
have no space.  Words that are no known phrase are shown as they are.

The prompt agent, the viewer's notifications, and brokerctl's lists of questions show
them.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from broker.core.language.catalogue import mark
from broker.helpers.prompt.translation import tr

_HASHED: Final = mark("a service known only by its hash ({digest})")
_OF: Final = mark("{request} of {target}")
"""Of an ssh key that another sandbox has."""
PHRASES: Final = (
    mark("to show windows on this screen"),
    mark("to report to Vitrail and receive programs to run"),
    mark("to play sound"),
    mark("to listen to your microphone"),
    mark("to use your camera"),
    mark("to see a screen or window that you choose"),
    mark("to share one of its own windows"),
    mark("to provide the data that you copied in it"),
    mark("to receive the data that you copied"),
    mark("to place what you copied in it on your clipboard"),
    mark("to deliver what you dragged to the place where you dropped it"),
    mark("to receive what you dragged from your own programs"),
    mark("to deliver what you dragged to your own programs"),
    mark("to open an address"),
    mark("to have a file opened"),
    mark("to have a file opened for editing; the changes replace it"),
    mark("to ask you to choose some of your files"),
    mark("to ask you to choose files, which are copied into it"),
    mark("to ask you to choose a folder, which is copied into it"),
    mark("to save a file where you choose"),
    mark("to print"),
    mark("to print on {about}"),
    mark("to copy files out of it"),
    mark("to receive files that you dragged from your own programs"),
    mark("to call the service {called}"),
    mark("to show notifications on your desktop"),
    mark("to read one of your folders"),
    mark("to read and change one of your folders"),
    mark("to read one of your disk images"),
    mark("to read and change one of your disk images"),
    mark("to use the USB device {number}"),
    mark("to attach the USB device {number}"),
    mark("to reach a host on the network"),
    mark("to use your security key"),
    mark("to register at {party} with your security key"),
    mark("to sign in to {party} with your security key"),
    mark("to check whether your security key is registered at {party}"),
    mark("to use the PIN of your security key after wrong attempts"),
    mark("to read the secret {name}"),
    mark("to follow the appearance of your desktop"),
    mark("to use an ssh key"),
    mark("to log in with an ssh key"),
    mark("to sign data with an ssh key"),
    mark("to connect to port {name}"),
    mark("to accept your connection to its port {name}"),
    mark("to show icons in your panel"),
)
"""The same as in ``policy.rules.wording``, which a helper does not import."""
REMEMBERED: Final = frozenset(
    {
        mark("every address of this host"),
        mark("this address"),
        mark("every file of this type"),
        mark("every file"),
        mark("every document"),
        mark("everything that you copy"),
        mark("everything that you drag"),
    }
)
TITLES: Final = frozenset(
    {
        *(mark("host"), mark("what"), mark("folder"), mark("image"), mark("number")),
        *(mark("port"), mark("interfaces"), mark("relying party"), mark("key")),
        *(mark("user"), mark("host key"), mark("signed for"), mark("scheme")),
        *(mark("protocol"), mark("type"), mark("size"), mark("document")),
        *(mark("pages"), mark("job"), mark("device"), mark("by way of")),
        *(mark("wrong PINs"), mark("known hosts")),
    }
)
"""Of lines below the request."""
_SAID: Final = ", it says"
_MACHINE: Final = frozenset({mark("this computer"), mark("a device was plugged in")})
"""In place of a sandbox and its label: nobody's names, as they have spaces."""
_WORD = r"\S+"


def request_of(words: str) -> str:
    """Return a request in the user's language."""
    for phrase in PHRASES:
        found = _pattern(phrase).fullmatch(words)
        if found is not None:
            values = {name: _value(one) for name, one in found.groupdict().items()}
            return tr(phrase, **values)
    head, of, target = words.rpartition(" of ")
    if of and " " not in target and head in PHRASES:
        return tr(_OF, request=tr(head), target=target)
    return words


def title_of(title: str) -> str:
    """Return the title of a line; what a sandbox says stays marked."""
    # guard: a claim is marked as one in each language
    if title.endswith(_SAID):
        return tr("{title}, it says", title=_known(title.removesuffix(_SAID)))
    return _known(title)


def remembered(words: str) -> str:
    """Return what a remembered answer is for."""
    return tr(words) if words in REMEMBERED else words


def machine_words(words: str) -> str:
    """Return a name of a sandbox, or the words for this machine in its place."""
    return tr(words) if words in _MACHINE else words


def _known(title: str) -> str:
    return tr(title) if title in TITLES else title


def _value(text: str) -> str:
    found = _pattern(_HASHED).fullmatch(text)
    return text if found is None else tr(_HASHED, **found.groupdict())


@cache
def _pattern(phrase: str) -> re.Pattern[str]:
    """Return the pattern of a phrase with its values."""
    parts = re.split(r"\{(\w+)\}", phrase)
    made = ""
    for number, part in enumerate(parts):
        if number % 2 == 0:
            made += re.escape(part)
        elif part == "party":
            made += rf"(?P<party>{_pattern(_HASHED).pattern.replace('?P<digest>', '?:')}|{_WORD})"
        else:
            made += f"(?P<{part}>{_WORD})"
    return re.compile(made)
