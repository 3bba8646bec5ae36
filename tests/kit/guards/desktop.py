"""The guards of what sandboxes show on the desktop, as ``guards`` describes them.

``python -m tests.kit.guards.desktop [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

HOSTILE = "tests/attack/test_notifications_hostile.py"
SERVICE = "tests/broker/viewer/notifications/test_notification_service.py"
SERVER = "tests/integration/test_notification_server.py"
WORKER = "tests/broker/jail/worker/test_notification_streams.py"
LOCKDOWN = "tests/broker/authority/test_lockdown.py"
GUARDS = (
    Guard("a sandbox changes its own notifications", "return list(self._notices.values())", HOSTILE, "another_sandbox"),
    Guard("changes of a notification are paced", "return True", HOSTILE, "changes_have"),
    Guard("notifications of a sandbox are few", "if False:", HOSTILE, "ten_thousand"),
    Guard("notifications of all sandboxes are few", "return True", HOSTILE, "total"),
    Guard("only a rule makes a notification critical", "if False:", HOSTILE, "urgency"),
    Guard("a sandbox's text is plain", "body = notice.past.body", HOSTILE, "text_is_plain"),
    Guard("a notification is sent whole in time", "seconds = float('inf')", WORKER, "never_ends"),
    Guard("a flood of notifications waits in its sender", "", WORKER, "flood"),
    Guard("few notification daemons of a sandbox", "if False:", SERVICE, "few_daemons"),
    Guard("notifications end with their connection", "for notice in ():", SERVICE, "end_with"),
    Guard("a notification asks the share", "", SERVICE, "share"),
    Guard("a notification is recorded before it is seen", "", SERVICE, "recorded"),
    Guard("a flood changes one notification, slowly", "await trio.lowlevel.checkpoint()", SERVICE, "slowly"),
    Guard("an answer that comes late goes nowhere", "if False:", SERVICE, "late"),
    Guard("a click raises a window of the sandbox that asked", "", SERVICE, "click"),
    Guard("a press is the notification server's word", "if True:", SERVER, "forged"),
    Guard("text is escaped for a server that does not say", "return (True, False)", SERVER, "does_not_say"),
    Guard("a lockdown that cannot be read holds", "return None", LOCKDOWN, "cannot_be_read"),
    Guard("a lockdown ends unfiltered sound", "", LOCKDOWN, "only_what"),
    Guard("a lockdown ends networks where the user says so", "", LOCKDOWN, "networks"),
    Guard("a lockdown ends cameras", "", LOCKDOWN, "only_what"),
    Guard("no device is attached in a lockdown", "", LOCKDOWN, "no_device"),
    Guard("a dismissed notification does not come back", "if False:", "tests/broker/viewer/notifications/test_dismissed.py", "come_back"),
    Guard("nothing starts in a lockdown", "if False:", LOCKDOWN, "methods"),
    Guard("a lockdown is lifted for good or not at all", "", LOCKDOWN, "survives"),
    Guard("a lockdown cuts before it is recorded", "", LOCKDOWN, "full_disk"),
    Guard("a lockdown is recorded before it is lifted", "", LOCKDOWN, "not_lifted"),
    Guard("a lockdown denies whatever the rules say", "if False:", LOCKDOWN, "at_once"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)
