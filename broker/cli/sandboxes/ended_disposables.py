"""Sandboxes that have ended, of which only the name is left."""

from __future__ import annotations

from broker.core.names import disposable_name


def is_disposable_of(sandbox: str, record: str) -> bool:
    """Return whether a sandbox has a name that disposables of this record get.

    For those that have ended: the broker knows the record of each running sandbox.
    """
    stem, dash, number = sandbox.rpartition("-")
    return (
        bool(dash)
        and number.isdecimal()
        and disposable_name(record, int(number)) == f"{stem}-{number}"
    )
