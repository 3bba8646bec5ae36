"""``vitrail-local`` that gives a copy a minute, however slow this machine is.

Started in its place: ``world(copied=["app"])``, or by its name as the world's program.
A copy that is not up within ``FORK_SECONDS`` boots instead, which is right for a person
who waits and wrong for a test of copies beside other tests.  No template is made in the
background, where its boot would take a processor from the test.
"""

from __future__ import annotations

from broker.core import limits
from broker.programs.local import main

if __name__ == "__main__":
    limits.FORK_SECONDS = 60.0
    limits.TEMPLATE_DELAY_SECONDS = 3600.0
    main()
