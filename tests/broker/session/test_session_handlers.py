"""Each order has one handler, in a module that a child imports for it alone."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections import Counter

import broker.session
from broker.ipc.session.order_rows import ROWS
from broker.session.child import MODULES, load_handler
from broker.wire.row import row_served_by


def _handled() -> Counter[str]:
    """Return how many handlers each row has, by its name."""
    names = Counter[str]()
    for module_info in pkgutil.walk_packages(
        broker.session.__path__, "broker.session."
    ):
        module = importlib.import_module(module_info.name)
        values = [v for v in vars(module).values() if _module_of(v) == module.__name__]
        methods = [m for v in values if inspect.isclass(v) for m in vars(v).values()]
        rows = map(row_served_by, (*values, *methods))
        names.update(row.name for row in rows if row is not None)
    return names


def _module_of(value: object) -> str:
    return getattr(value, "__module__", "")


def test_rows_each_have_one_handler():
    assert _handled() == dict.fromkeys(ROWS, 1)


def test_rows_of_the_table_are_loaded(monkeypatch):
    monkeypatch.setattr("broker.session.child.adopt_display", lambda: None)
    listed = [row for rows in MODULES.values() for row in rows]
    assert len(listed) == len(set(listed))
    for row in listed:
        assert row_served_by(load_handler(row)) is row


def test_rows_that_follow_another_begin_no_order():
    listed = {row.name for rows in MODULES.values() for row in rows}
    for name in ROWS.keys() - listed:
        assert load_handler(ROWS[name]) is None


def test_rows_without_a_permit_say_why():
    for row in ROWS.values():
        reason = re.search(r"No permit: \w", row.request.__doc__ or "")
        assert (reason is None) == bool(row.permit or row.calls), row.name


def test_modules_of_orders_import_no_event_loop():
    """Its import takes longer than most orders."""
    names = ", ".join(MODULES)
    code = f"import sys, {names}; sys.exit('trio' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
