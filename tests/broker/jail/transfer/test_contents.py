"""Content and name of a file that is to be opened."""

from __future__ import annotations

import pytest

from broker.core.errors import RefusedError
from broker.core.transfer.claimed_type import mime_type_of_name
from broker.jail.transfer.contents import refuse_contents, refuse_disguise

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a.pdf", b"%PDF-1.7"),
        ("a.png", PNG),
        ("a.JPG", b"\xff\xd8\xff\xe0"),
        ("a.odt", b"PK\x03\x04"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
        ("a.txt", b"hello"),
        ("a.txt", b""),
        ("README", b"hello"),
        ("a.unknown", b"\0\1"),
    ],
)
def test_contents_that_match_their_name(name, head):
    refuse_contents(name, head)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a.pdf", b"MZ\x90"),
        ("a.pdf", b"hello"),
        ("a.pdf", PNG),
        ("a.png", b"%PDF-1.7"),
        ("a.txt", b"PK\x03\x04"),
        ("a.txt", b"#!/bin/sh"),
        # An image to the target's opener, which looks at so much of it.
        ("a.txt", b"GIF8 and more"),
        ("README", b"\x7fELF"),
        ("a", b"[Desktop Entry]\n"),
        ("report.pdf.exe", b"hello"),
        ("a.desktop", b"x"),
        ("a.sh", b"echo"),
        ("A.LNK", b"x"),
    ],
)
def test_contents_that_differ_or_can_run_are_refused(name, head):
    with pytest.raises(RefusedError):
        refuse_contents(name, head)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a.sh", b"#!/bin/sh"),
        ("run", b"\x7fELF"),
        ("a.py", b"#!/usr/bin/python3"),
        ("a.jpg", PNG),
        ("a.svgz", b"\x1f\x8b"),
        ("a.zip", b"PK\x03\x04"),
        ("a.pdf", b""),
        ("a.pdf", b"%PDF-1.4"),
    ],
)
def test_what_may_be_copied(name, head):
    refuse_disguise(name, head)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a.pdf", b"MZ\x90"),
        ("a.jpg", b"\x7fELF"),
        ("a.mp4", b"#!/bin/sh"),
        ("a.png", b"%PDF-1.4"),
        ("a.pdf", b"[Desktop Entry]"),
    ],
)
def test_disguises_are_not_copied(name, head):
    with pytest.raises(RefusedError, match="the content of"):
        refuse_disguise(name, head)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.pdf", "application/pdf"),
        ("a.PDF", "application/pdf"),
        ("/home/me.d/a.b.pdf", "application/pdf"),
        ("/home/me.pdf/a", ""),
        ("README", ""),
        ("a.", ""),
        (".html", ""),
        ("a.svgz", "image/svg+xml"),
        ("a.tar.gz", "application/x-tar"),
        ("a.png.xz", "image/png"),
        ("a.unknown", ""),
    ],
)
def test_the_type_that_a_name_claims(name, kind):
    assert mime_type_of_name(name) == kind
