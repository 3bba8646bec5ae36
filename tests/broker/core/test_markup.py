"""Text as markup, and back."""

from __future__ import annotations

import html

from hypothesis import given
from hypothesis import strategies as st

from broker.core.markup import escape_markup, unescape_markup


@given(st.text("&<>;altgmp \"'") | st.text())
def test_it_is_what_html_makes_of_it_and_comes_back(text):
    assert escape_markup(text) == html.escape(text, quote=False)
    assert unescape_markup(escape_markup(text)) == text
