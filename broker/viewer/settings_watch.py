"""Telling the user of a mistake in a settings file while the broker runs."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from broker.authority.file_watch import Seen, open_watch
from broker.core.errors import VitrailError
from broker.core.notify import Notify
from broker.core.paths import Paths
from broker.core.stderr_log import log_exception
from broker.ipc.session.folder_orders import CHECK_SETTINGS, CheckSettings
from broker.viewer.orders.session_orders import UserSession, answered_file

_FILES = ("audit.toml", "clipboard.toml", "link.toml", "ship.toml")
"""Those that ``session.settings_files`` reads."""


class SettingsWatch:
    """Tells the user of mistakes in these files while the broker runs."""

    def __init__(self, paths: Paths, session: UserSession, notify: Notify) -> None:
        self._paths = paths
        self._session = session
        self._notify = notify
        self._problems: list[str] = []

    def warnings(self) -> list[str]:
        """Return a line for each mistake, for ``brokerctl status``."""
        return self._problems

    async def run(self) -> None:
        """Have settings files checked at the start and after each change.

        Notify mistakes.

        Until cancelled.
        """
        seen: Seen = frozenset({("", ())})  # unlike any look: the first one reads
        async with open_watch((), self._files) as watch:
            while True:
                seen = await watch.wait_changed(seen)
                try:
                    content = await answered_file(
                        self._session, CHECK_SETTINGS, CheckSettings()
                    )
                # guard: a check that is not carried out ends no broker
                except VitrailError as error:
                    log_exception(error)
                    continue
                found = msgspec.json.decode(content, type=list[str])
                new = [problem for problem in found if problem not in self._problems]
                self._problems = found
                for problem in new:
                    self._notify(
                        "Vitrail: a settings file has a mistake",
                        f"{problem}\nTo see the place, run 'brokerctl policy check'. The next "
                        "broker may not start with this mistake.",
                    )

    def _files(self) -> Iterable[str]:
        return [str(base / name) for base in self._paths.config for name in _FILES]
