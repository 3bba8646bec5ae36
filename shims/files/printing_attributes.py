"""The attributes of the sandbox's printer, and of the paper that it has.

The program in the sandbox runs it (``printing_queue.py``).
Sources: RFC 8011; PWG 5100.7 and 5101.1 (names and sizes of paper).
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from shims.files.printing_messages import (
    BOOLEAN,
    CHARSET,
    COLLECTION,
    ENUM,
    INTEGER,
    KEYWORD,
    LANGUAGE,
    MIME,
    NAME,
    NO_VALUE,
    RANGE,
    RESOLUTION,
    TEXT,
    URI,
)

if TYPE_CHECKING:
    from typing import List, Sequence

    from shims.files.printing_messages import IppRequest, IppRows, IppValue

QUEUE = "Desktop"
QUEUE_WORDS = "Printer of the desktop (Vitrail)"
PDF = "application/pdf"
IDLE, PRINTS = 3, 4  # of the printer
# Names of PWG 5101.1, and hundredths of a millimetre.
PAPER = {
    "iso_a4_210x297mm": (21000, 29700),
    "na_letter_8.5x11in": (21590, 27940),
    "na_legal_8.5x14in": (21590, 35560),
    "iso_a3_297x420mm": (29700, 42000),
    "iso_a5_148x210mm": (14800, 21000),
}
LETTER_COUNTRIES = ("_US", "_CA", "_MX", "_PH", "_CL", "_CO", "_VE")
MARGIN = 423  # a sixth of an inch
PRINTER_COLOUR = 8  # cups_ptype_t


def chosen_rows(request: IppRequest, rows: IppRows) -> IppRows:
    """Return the attributes that a request asks for."""
    requested = request.words("requested-attributes")
    groups = {"all", "printer-description", "job-description", "job-template"}
    groups.add("media-col-database")
    if not requested or groups & set(requested):
        return rows
    # As CUPS names all of these together.
    ends = "-default" if "printer-defaults" in requested else "\0"
    return {
        name: row
        for name, row in rows.items()
        if name in requested or name.endswith(ends)
    }


def printer_rows(
    request: IppRequest, uri: str, busy: int, operations: Sequence[int]
) -> IppRows:
    """Return the attributes of the printer that a request asks for."""
    import uuid

    language = os.environ.get("LC_PAPER") or os.environ.get("LANG", "")
    letter = any(country in language for country in LETTER_COUNTRIES)
    usual = list(PAPER)[letter]
    sizes: List[IppValue] = [paper_rows(name) for name in PAPER]
    margin = (INTEGER, [MARGIN])
    rows: IppRows = {
        "printer-name": (NAME, [QUEUE]),
        "printer-uri-supported": (URI, [uri]),
        "uri-authentication-supported": (KEYWORD, ["requesting-user-name"]),
        "uri-security-supported": (KEYWORD, ["none"]),
        "printer-info": (TEXT, [QUEUE_WORDS]),
        "printer-location": (TEXT, [""]),
        "printer-make-and-model": (TEXT, ["Vitrail"]),
        "printer-type": (ENUM, [PRINTER_COLOUR]),
        "printer-state": (ENUM, [PRINTS if busy else IDLE]),
        "printer-state-reasons": (KEYWORD, ["none"]),
        "printer-state-message": (TEXT, [""]),
        "printer-state-change-time": (INTEGER, [int(time.time())]),
        "printer-is-accepting-jobs": (BOOLEAN, [True]),
        "printer-is-shared": (BOOLEAN, [False]),
        "printer-is-temporary": (BOOLEAN, [False]),
        "printer-up-time": (INTEGER, [int(time.time())]),
        "printer-uuid": (URI, [f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, uri)}"]),
        "queued-job-count": (INTEGER, [busy]),
        "ipp-versions-supported": (KEYWORD, ["1.1", "2.0"]),
        "ipp-features-supported": (KEYWORD, ["none"]),
        "operations-supported": (
            ENUM,
            operations,
        ),
        "charset-configured": (CHARSET, ["utf-8"]),
        "charset-supported": (CHARSET, ["utf-8"]),
        "natural-language-configured": (LANGUAGE, ["en"]),
        "generated-natural-language-supported": (LANGUAGE, ["en"]),
        "pdl-override-supported": (KEYWORD, ["attempted"]),
        "compression-supported": (KEYWORD, ["none"]),
        "multiple-document-jobs-supported": (BOOLEAN, [False]),
        "document-format-default": (MIME, [PDF]),
        "document-format-supported": (MIME, [PDF, "application/octet-stream"]),
        "job-creation-attributes-supported": (KEYWORD, ["media", "media-col"]),
        "color-supported": (BOOLEAN, [True]),
        "print-color-mode-default": (KEYWORD, ["auto"]),
        "print-color-mode-supported": (KEYWORD, ["auto"]),
        "copies-default": (INTEGER, [1]),
        "copies-supported": (RANGE, [(1, 1)]),
        "finishings-default": (ENUM, [3]),  # none
        "finishings-supported": (ENUM, [3]),
        "orientation-requested-default": (NO_VALUE, [0]),
        "orientation-requested-supported": (ENUM, [3]),  # portrait
        "output-bin-default": (KEYWORD, ["face-down"]),
        "output-bin-supported": (KEYWORD, ["face-down"]),
        "pages-per-minute": (INTEGER, [1]),
        "print-quality-default": (ENUM, [4]),  # normal
        "print-quality-supported": (ENUM, [4]),
        "sides-default": (KEYWORD, ["one-sided"]),
        "sides-supported": (KEYWORD, ["one-sided"]),
        "printer-resolution-default": (RESOLUTION, [(300, 300, 3)]),
        "printer-resolution-supported": (RESOLUTION, [(300, 300, 3)]),
        "media-default": (KEYWORD, [usual]),
        "media-ready": (KEYWORD, list(PAPER)),
        "media-supported": (KEYWORD, list(PAPER)),
        "media-bottom-margin-supported": margin,
        "media-left-margin-supported": margin,
        "media-right-margin-supported": margin,
        "media-top-margin-supported": margin,
        "media-col-default": (COLLECTION, [paper_rows(usual)]),
        "media-col-ready": (COLLECTION, sizes),
        "media-col-database": (COLLECTION, sizes),
        "media-size-supported": (COLLECTION, [size_rows(name) for name in PAPER]),
    }
    return chosen_rows(request, rows)


def size_rows(name: str) -> IppRows:
    """Return the attributes of a size of paper."""
    width, height = PAPER[name]
    return {"x-dimension": (INTEGER, [width]), "y-dimension": (INTEGER, [height])}


def paper_rows(name: str) -> IppRows:
    """Return the attributes of a sheet of paper."""
    margin = (INTEGER, [MARGIN])
    return {
        "media-size-name": (KEYWORD, [name]),
        "media-size": (COLLECTION, [size_rows(name)]),
        "media-bottom-margin": margin,
        "media-left-margin": margin,
        "media-right-margin": margin,
        "media-top-margin": margin,
    }
