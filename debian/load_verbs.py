"""Import every module of the package with the libraries that it will run with.

``python3 load_verbs.py ROOT``: a module that needs a newer library than Debian's
fails here, and not on the machine of the person who installed it.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path


def main() -> None:
    """Import all of broker and policy below ROOT."""
    (site,) = Path(sys.argv[1], "usr/lib/vitrail/lib").glob("python3*/site-packages")
    sys.path.insert(0, str(site))
    errors = importlib.import_module("broker.core.errors")
    count = 0
    for name in ("broker", "policy"):
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if found.name.rpartition(".")[2].startswith("_"):
                continue  # it runs a program, or is loaded into another one
            try:
                importlib.import_module(found.name)
            except errors.SetupError as error:
                # A part that names the package which it needs, and is optional.
                sys.stdout.write(f"{found.name}: {error}\n")
            count += 1
    sys.stdout.write(f"{count} modules were imported\n")


main()
