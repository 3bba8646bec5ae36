"""Texts of brokerctl in the user's language.

What scripts read is English: JSON, and with ``--json`` also all other texts.
Errors of a broker: ``render.error``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from broker.core.language.catalogue import Catalogue, languages


def wanted(words: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Return the languages for a command line; none, so English, for a script's."""
    own = words[: words.index("--")] if "--" in words else words
    return [] if "--json" in own else languages(environ)


catalogue = Catalogue("verbs", wanted(sys.argv[1:], os.environ))
tr, trn = catalogue.text, catalogue.plural
