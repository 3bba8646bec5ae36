"""Telling the user of a mistake in a settings file while the broker runs."""

from __future__ import annotations

from collections.abc import Iterable

from broker.authority.file_watch import Seen, open_watch
from broker.core.notify import Notify
from broker.core.paths import Paths
from broker.ipc.in_thread import NoThreadError, in_thread
from broker.viewer.settings_files import READERS, settings_problems
from policy.errors import Problem


class SettingsWatch:
    """Tells the user of mistakes in these files while the broker runs."""

    def __init__(self, paths: Paths, notify: Notify) -> None:
        self._paths = paths
        self._notify = notify
        self._problems: list[Problem] = []

    def warnings(self) -> list[str]:
        """Return a line for each mistake, for ``brokerctl status``."""
        return [problem.first_line() for problem in self._problems]

    async def run(self) -> None:
        """Read the files at the start and whenever one changes, until cancelled."""
        seen: Seen = frozenset({("", ())})  # unlike any look: the first one reads
        async with open_watch((), self._files) as watch:
            while True:
                seen = await watch.wait_changed(seen)
                try:
                    found = await in_thread(settings_problems, self._paths)
                # guard: settings are read without room for a thread
                except NoThreadError:
                    found = settings_problems(self._paths)
                new = [problem for problem in found if problem not in self._problems]
                self._problems = found
                for problem in new:
                    self._notify(
                        "Vitrail: a settings file has a mistake",
                        f"{problem.first_line()}\n"
                        "'brokerctl policy check' shows the place; a broker may not "
                        "start with it",
                    )

    def _files(self) -> Iterable[str]:
        return [str(base / name) for base in self._paths.config for name in READERS]
