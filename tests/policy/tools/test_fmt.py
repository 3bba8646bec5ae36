"""The even form means the same, and is even itself."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from policy.tools.files_in_memory import rules_of_map
from policy.tools.fmt import fmt
from tests.policy import strategies


def test_columns():
    """Blocks are aligned each for itself; comments and errors are left alone."""
    text = "# words\na * work vault allow   target=x\nlonger.Service +x @tag:y z deny\n\n\nb * w v ask\r\n  c  *  d alow\n"
    assert fmt(text) == (
        "# words\n"
        "a              *  work   vault allow target=x\n"
        "longer.Service +x @tag:y z     deny\n"
        "\n\n"
        "b * w v ask\n"
        "  c  *  d alow\n"
    )
    assert fmt("") == ""
    assert fmt("a * b c d\r\r\n") == "a * b c d\r\r\n"


@settings(deadline=None, max_examples=100)
@given(
    st.lists(strategies.lines() | st.text(max_size=20) | st.just("!include x")).map(
        "\n".join
    )
)
def test_the_meaning_stays(text):
    """Same digest, as many problems; a second time changes nothing."""
    new = fmt(text)
    before, after = rules_of_map({"1.policy": text}), rules_of_map({"1.policy": new})
    assert before.digest == after.digest
    assert len(before.problems) == len(after.problems)
    assert fmt(new) == new
