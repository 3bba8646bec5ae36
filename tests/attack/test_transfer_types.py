"""Names whose type is another one for the rules than for the program that opens them.

A rule with ``mime=`` lets pictures and plain text be opened; the program in the target
is chosen by the end of its path.
"""

from __future__ import annotations

import pytest

from broker.core.errors import RefusedError
from broker.core.lease import Opening
from broker.core.services import OPEN_FILE
from broker.core.transfer.claimed_type import mime_type_of_name
from broker.ipc.guest.file_requests import OpenFile
from broker.viewer.transfer.service import _asked, _request
from shims.files.openers import kind_of
from tests.kit.rulebook import WORK, rulebook

RULE = f"{OPEN_FILE} * work vault allow mime=text/plain,image/*\n"
OPENING = Opening(WORK, OPEN_FILE, 1, "cid 3")


def request_of(name):
    """The decision about a file of this name, as its worker passes it on."""
    ask = OpenFile(name=name, size=5, target="vault")
    return _request(OPENING, ask, _asked(OPENING, ask))


@pytest.mark.parametrize(
    "name",
    [
        "data:,a.html",
        "data:,a.docm",
        "ab:a.png?.html",
        "ab:a.png#.html",
        ".html",
    ],
)
async def test_a_name_is_of_the_type_that_opens_it(name):
    async with rulebook(RULE) as book:
        with pytest.raises(RefusedError):
            async with book.decider.permit(request_of(name)):
                pass


@pytest.mark.parametrize(
    "name", ["data:,a.html", "ab:a.png?.html", "a.png.xz", ".html"]
)
def test_the_target_sees_the_same_type(name, tmp_path):
    path = tmp_path / name
    path.write_text("<p>")
    assert (mime_type_of_name(name) or "text/plain") == kind_of(str(path))


@pytest.mark.parametrize("name", ["a.txt", "data:,a.txt", "b.c.PNG"])
async def test_what_the_rule_means_is_opened(name):
    async with (
        rulebook(RULE) as book,
        book.decider.permit(request_of(name)) as permit,
    ):
        assert permit.target == "vault"
