"""The files and directories to which services of the user's desktop may write.

A service works on a sandbox's bytes, so these may contain links of a sandbox
(``core.files.planted_links``).  Session children and brokerctl ask for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from broker.core.errors import SetupError
from broker.core.paths import Paths, read_config
from policy.services.desktop import FOLDER, parse_service


def written_by_services(paths: Paths) -> Iterator[Path]:
    """Yield the paths of ``write`` of all services, whether they run or not."""
    for file in (paths.config[0] / FOLDER).glob("*.toml"):
        # A service whose file cannot be read does not start; 'policy check' says why.
        with suppress(SetupError, OSError):
            service, _ = parse_service(file, read_config(file))
            yield from () if service is None else service.write
