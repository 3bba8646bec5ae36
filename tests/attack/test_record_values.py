"""A record whose values are of every type that TOML has, where each is not expected.

It is one file of many: a broker that stopped at it would read none of the others.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from policy.records.record_schema import TABLES
from policy.tools.record_files import parse_record

VALUES = (
    *("true", "0", "-1", "9" * 400, "0x1f", "1e999", "nan", "-inf", "1.5"),
    *('""', '"x"', '"""\nx"""', "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z"),
    *("[]", "[[]]", '["x", 1]', "[{}]", "[nan]", "{}", '{x = "y"}', "{x = [1]}"),
)
FIELDS = [
    (table, field)
    for table in TABLES
    for field in table.fields
    if (table.name, field.key) != ("", "name")
]


@pytest.mark.parametrize(
    ("table", "field"), FIELDS, ids=[f"{t.name}.{f.key}" for t, f in FIELDS]
)
def test_no_value_of_a_key_ends_the_reading(table, field):
    head = f"[{table.name}]\n" if table.name else ""
    kinds = field.only or ("bwrap",)
    for kind in sorted(kinds):
        for value in VALUES:
            text = f"{head}{field.key} = {value}\n"
            if field.key != "kind":
                launch = "" if table.name == "launch" else "[launch]\n"
                text += f'{launch}kind = "{kind}"\n'
            found, problems = parse_record("x", Path("x.toml"), text.encode())
            assert (found is None) == bool(problems), text


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("table", [t.name for t in TABLES if t.name] + ["none"])
def test_no_value_in_a_tables_place_ends_the_reading(table, value):
    text = f'class = "disposable"\n{table} = {value}\n'
    found, problems = parse_record("x", Path("x.toml"), text.encode())
    assert (found is None) == bool(problems), text
