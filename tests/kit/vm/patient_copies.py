"""``vitrail-local`` that gives a copy a minute, however slow this machine is.

Started in its place: ``world(program="tests.kit.vm.patient_copies")``.  A copy that is
not up within ``FORK_SECONDS`` boots instead, which is right for a person who waits and
wrong for a test of copies beside other tests.
"""

from __future__ import annotations

from broker.core import limits
from broker.programs.local import main

if __name__ == "__main__":
    limits.FORK_SECONDS = 60.0
    main()
