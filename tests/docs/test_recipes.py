"""The recipes of CONTRIBUTING.md name files that exist, and all that a change needs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from broker.cli.verbs import GROUPS
from docs.print_man import PAGES
from policy.records.record_schema import TABLES
from shims.files.bus_calls import BUS_OBJECTS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
RECIPES = TEXT[TEXT.index("## Recipes") : TEXT.index("## Language")]
_PATH = re.compile(r"`((?:broker|policy|shims|tests|docs)/[\w./-]*)`")
_MODULE = re.compile(r"python -m ([\w.]+)")
KEYS = [field.key for table in TABLES for field in table.fields]
VERBS = sorted({verb for group in GROUPS.values() for verb in group})
MEMBERS = [
    (bus_object.interface, row.member)
    for bus_object in BUS_OBJECTS.values()
    for row in bus_object.rows.values()
]


def recipe(title):
    """Return the section of a recipe."""
    return RECIPES[RECIPES.index(f"### {title}") :].partition("\n### ")[0]


def read(path):
    assert path in TEXT, "the recipe does not name this file"
    return (ROOT / path).read_text()


@pytest.mark.parametrize("path", sorted(set(_PATH.findall(RECIPES))))
def test_path_exists(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("module", sorted(set(_MODULE.findall(RECIPES)) - {"pytest"}))
def test_command_exists(module):
    assert importlib.util.find_spec(module)


@pytest.mark.parametrize("key", sorted(set(KEYS)))
def test_policy_key_is_where_the_recipe_says(key):
    text = recipe("Add a policy key")
    assert "docs/policy.md" in text
    assert f'"{key}"' in read("broker/data/schema/sandbox.json")
    assert re.search(rf"\b{key}\b", read("docs/policy.md"))
    tables = ("record_schema.py", "launch_table.py", "desktop_tables.py")
    assert all(f"policy/records/{table}" in text for table in tables)
    assert any(f'"{key}"' in read(f"policy/records/{table}") for table in tables)


@pytest.mark.parametrize(("interface", "member"), MEMBERS)
def test_call_of_the_session_bus_is_where_the_recipe_says(interface, member):
    assert "shims/files/bus_calls.py" in recipe("Add a call of the session bus")
    assert f"| `{interface}` | `{member}` |" in read("docs/messages.md")


@pytest.mark.parametrize("verb", VERBS)
def test_verb_is_where_the_recipe_says(verb):
    text = recipe("Add a verb to brokerctl")
    assert "broker/cli/verbs.py" in text
    assert re.search(rf"^### {verb}\b", read("docs/brokerctl.1.md"), re.MULTILINE)
    assert any(verb in page.verbs for page in PAGES)
