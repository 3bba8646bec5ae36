"""Every limit says its unit and reason; that is what makes it one."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import policy.limits
from broker.core import limits

ROOMS = sorted(Path(limits.__file__).parent.glob("[a-z]*.py"))
assert len(ROOMS) >= 10


@pytest.mark.parametrize(
    "source", [*ROOMS, Path(policy.limits.__file__)], ids=lambda path: path.stem
)
def test_every_limit_has_a_reason(source):
    """Below it, or below the last of a group that belongs together."""
    names, unexplained = [], []
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.Assign):
            assert isinstance(node.targets[0], ast.Name)
            names.append(node.targets[0].id)
            unexplained.append(names[-1])
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            unexplained.clear()
    assert unexplained == []
    assert len(names) == len(set(names)) > 5


def test_a_limit_stands_in_one_room():
    """Two of one name: ``limits.NAME`` would be whichever is imported last."""
    found: dict[str, str] = {}
    for room in ROOMS:
        for node in ast.parse(room.read_text()).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                assert found.setdefault(name, room.stem) == room.stem
                module = importlib.import_module(f"{limits.__name__}.{room.stem}")
                assert getattr(module, name) is not None


@pytest.mark.parametrize("module", [limits, policy.limits], ids=lambda m: m.__name__)
def test_every_limit_is_a_positive_number(module):
    """Or several of them; a range may begin at 0."""
    for name, value in vars(module).items():
        numbers = value if isinstance(value, tuple) else (value,)
        # Constants built of others (tables) hold the values here already.
        if name.isupper() and all(isinstance(n, int | float) for n in numbers):
            assert max(numbers) > 0, name
            assert min(numbers) >= 0, name
