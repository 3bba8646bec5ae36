"""The system-call filter of a keeper, and of helpers that show something.

The fork server of helpers compiles the keeper's before it forks one; a helper in the
session compiles and installs its own.
"""

from __future__ import annotations

from functools import cache

from broker.helpers.filters.session_filters import in_session, keep_attributes


@cache
def keeper_filter() -> bytes:
    """Compile the filter of a keeper: it stays in the session, so a deny-list.

    It makes UNIX connections and waits; it starts nothing and inspects no other
    process.  It can signal only the process of which it was given a pidfd.
    """
    rules = in_session(frozenset({"pidfd_send_signal"}))
    rules.kill(["clone", "clone3"])
    # guard: a keeper changes and watches no file of the user
    keep_attributes(rules)
    return rules.program()
