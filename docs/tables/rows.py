"""A table of rows of the wire, for the pages: who calls what, and what comes along."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from types import ModuleType

from broker.wire.row import AnyRow, Descriptors, Empty

_COLUMNS = ("row", "caller", "served by", "descriptors", "two machines", "what it does")


def rows_table(title: str, *modules: ModuleType) -> str:
    """Return a section with a line for each row that these modules define."""
    lines = [f"## {title}", "", f"| {' | '.join(_COLUMNS)} |"]
    lines.append("| --- " * len(_COLUMNS) + "|")
    for module in modules:
        described = _described(module)
        for name, row in vars(module).items():
            if name in described:
                lines.append(f"| {' | '.join(_cells(row, described[name]))} |")
    return "\n".join(lines) + "\n"


def _cells(row: AnyRow, described: str) -> tuple[str, ...]:
    effect = (described or _first_line(row.request)).replace("``", "`")
    return (
        f"`{row.name}`",
        ", ".join(sorted(row.by)),
        ", ".join(sorted(row.of)),
        _descriptors(row.takes, row.gives),
        "no" if row.absence("link") else "yes",
        effect.replace(".  ", ". "),
    )


def _descriptors(takes: Descriptors, gives: Descriptors) -> str:
    parts = [f"{takes} to it"] if takes else []
    return ", ".join([*parts, f"{gives} from it"] if gives else parts) or "none"


def _first_line(request: type) -> str:
    return "" if request is Empty else (request.__doc__ or "").partition("\n")[0]


def _described(module: ModuleType) -> Mapping[str, str]:
    """Return the names of a module's rows, each with the text below it, or an empty one."""
    texts: dict[str, str] = {}
    body = ast.parse(inspect.getsource(module)).body
    for statement, following in zip(body, [*body[1:], None], strict=True):
        name = _assigned_row(statement)
        if name:
            texts[name] = _text(following)
    return texts


def _assigned_row(statement: ast.stmt) -> str:
    """Return the name that is assigned a row; empty for another statement."""
    if isinstance(statement, ast.Assign):
        target: ast.expr | None = statement.targets[0]
    else:
        target = statement.target if isinstance(statement, ast.AnnAssign) else None
    value = getattr(statement, "value", None)
    is_row = isinstance(value, ast.Call) and ast.unparse(value.func) == "Row"
    return target.id if is_row and isinstance(target, ast.Name) else ""


def _text(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return str(statement.value.value).partition("\n")[0]
    return ""
