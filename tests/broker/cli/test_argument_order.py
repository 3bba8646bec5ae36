"""The sandbox comes first; the older order is understood where it can mean one thing."""

from __future__ import annotations

import pytest

from broker.cli.argument_order import sandbox_first
from broker.core.errors import RefusedError


def known():
    return ["work", "web"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (("work", "/home/ada/paper"), ("work", "/home/ada/paper")),
        (("/home/ada/paper", "work"), ("work", "/home/ada/paper")),
        (("work", "1-2.3"), ("work", "1-2.3")),
        (("1-2.3", "work"), ("work", "1-2.3")),
        (("work", "paper"), ("work", "paper")),
        (("paper", "work"), ("work", "paper")),
        (("web", "./work"), ("web", "./work")),
        # Neither is known: the broker says that it has no such sandbox.
        (("wrok", "paper"), ("wrok", "paper")),
        (("Work", "Paper"), ("Work", "Paper")),
    ],
)
def test_the_sandbox_is_found(given, meant):
    assert sandbox_first(*given, known) == meant


def test_a_folder_that_is_named_as_a_sandbox_is_not_guessed():
    with pytest.raises(RefusedError, match="both names") as refused:
        sandbox_first("work", "web", known)
    assert "./web" in (refused.value.hint or "")
