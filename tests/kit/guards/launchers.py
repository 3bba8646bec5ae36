"""The guards of launchers, as ``guards`` describes them.

``python -m tests.kit.guards.launchers [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard(
        "a launch is bound once",
        "state = self._pending.get(launch)",
        "tests/conformance/launchers/test_launchers.py",
        "bound_once",
    ),
    Guard(
        "a launch that is not bound is given up",
        "if False:",
        "tests/conformance/launchers/test_launchers.py",
        "given_up and never_bound",
    ),
    Guard(
        "pending launches have a limit",
        "if False:",
        "tests/conformance/launchers/test_launchers.py",
        "pending_launches",
    ),
    Guard(
        "what is leased again is the same process",
        "leader = find('leader', state.leader)",
        "tests/conformance/launchers/test_launchers.py",
        "another_boot",
    ),
    Guard(
        "a box waits for its lease",
        "_GATE = 'exec \"$@\" </dev/null'",
        "tests/conformance/launchers/test_launchers.py",
        "before_its_lease",
    ),
    Guard(
        "a required lease stops the container",
        "if False:",
        "tests/broker/launch/podman/test_hook.py",
        "requires_it_does_not",
    ),
    Guard(
        "a shared box's frame says that it is a label",
        "pass",
        "tests/e2e/test_shared_box.py",
        "is_a_label",
    ),
)

if __name__ == "__main__":
    main(GUARDS)
