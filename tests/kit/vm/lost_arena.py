"""``vitrail-local`` whose viewer is lent no arena, as after a machine was adopted.

Started in its place: ``world(program="tests.kit.vm.lost_arena")``.
"""

from __future__ import annotations

from broker.host.viewer_process import ViewerProcess
from broker.programs.local import main


async def _keep(*_: object) -> None:
    return


if __name__ == "__main__":
    ViewerProcess.arena_lent = _keep  # type: ignore[assignment]
    main()
