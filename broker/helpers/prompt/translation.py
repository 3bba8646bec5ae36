"""The dialog's texts in the user's language.

Loaded before the process is confined.  There is no catalogue of a language from right to
left, as the dialog's drawing has no order of such texts: these users get English.

The prompt agent and ``vitrail-access`` use it for the dialog, the viewer and brokerctl
for their notifications and rows about the same questions, ``brokerctl menu`` and ``tray``
for all that they show on the desktop.
"""

from __future__ import annotations

import os

from broker.core.language.catalogue import Catalogue, languages

catalogue = Catalogue("dialog", languages(os.environ))
tr, trn = catalogue.text, catalogue.plural


def language() -> str:
    """Return the language of the texts."""
    return catalogue.language
