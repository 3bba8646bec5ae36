"""The tools' program: ``tool [inside] NAME WORD…``, see ``broker.helpers.tools.profiles``."""

from __future__ import annotations

import sys
from importlib import import_module

from broker.helpers.tools.profiles import INSIDE, TOOLS


def main() -> None:
    """Run the tool of that name, in its jail; exit with its code."""
    inside = sys.argv[1] == INSIDE
    name, *arguments = sys.argv[2 if inside else 1 :]
    tool = TOOLS[name]
    # guard: a tool with a jail runs in it
    enter = tool.jail if not inside else ""
    # By name: what reads files and answers of others is imported in the jail.
    module, _, function = (enter or tool.run).partition(":")
    sys.exit(getattr(import_module(module), function)(*arguments))


if __name__ == "__main__":
    main()
