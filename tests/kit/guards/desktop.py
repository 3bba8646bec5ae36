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
TRAY = "tests/broker/cli/tray/test_item.py"
DIALOGS = "tests/attack/test_file_dialogs.py"
ICONS = "tests/attack/test_sandbox_icons.py"
PRINTING = "tests/attack/test_printing.py"
CAMERA = "tests/attack/test_camera.py"
USES = "tests/broker/viewer/calls/test_camera.py"
SCREENS = "tests/attack/test_screen_share.py"
GUARDS = (
    Guard("a camera that was taken back is not opened again at once", "", USES, "taken_back"),
    Guard("a sandbox opens the camera once", "if False:", USES, "opens_the_camera_once"),
    Guard("the camera is opened so many times a minute", "if False:", USES, "ten_thousand"),
    Guard("that a sandbox sees is recorded before it does", "", USES, "recorded"),
    Guard("who uses the camera is shown", "", USES, "recorded_and_shown"),
    Guard("what is shown as a camera is one", "if one.type == _NODE and one.text('media.class') == 'Video/Source':", USES, "not_taken_for"),
    Guard("pictures of the camera have a size of ours", "if False:", CAMERA, "our_sizes"),
    Guard("the process that reads a camera sees nothing else of PipeWire", "", CAMERA, "nothing_else"),
    Guard("a camera without pictures is not waited for", "with trio.CancelScope():", CAMERA, "gigapixels"),
    Guard("the camera is closed with its permission", "", CAMERA, "nothing_is_left"),
    Guard("pictures that are not taken are dropped", "yield from ('queue', 'max-size-buffers=0', 'max-size-bytes=0', 'max-size-time=0', '!')", CAMERA, "are_dropped"),
    Guard("programs of a sandbox have bounds of their own cameras", "if False:", CAMERA, "has_bounds"),
    Guard("a program gets the camera that it has asked for", "if False:", CAMERA, "has_not_asked"),
    Guard("the user says yes to each share of a screen", "asks = False", SCREENS, "shares_a_screen_unasked"),
    Guard("a yes for this once is not remembered", "held = answer.limits", SCREENS, "shares_a_screen_unasked"),
    Guard("one dialog about screens at a time", "if False:", SCREENS, "one_dialog"),
    Guard("a dialog that nobody answers goes", "with trio.CancelScope():", SCREENS, "nobody_answers"),
    Guard("a dialog that was dismissed is not shown again at once", "if False:", SCREENS, "dismissed or hangs_up"),
    Guard("a dialog that was given up counts until it is closed", "await self.send(close)", SCREENS, "portal_has_closed"),
    Guard("the user is not asked again about what was taken back", "", SCREENS, "hangs_up"),
    Guard("a share ends with the desktop's session", "", SCREENS, "outlive_its_window"),
    Guard("a screen is seen once its frame is", "if False:", SCREENS, "without_its_frame"),
    Guard("a screen that may be the shared one has a frame", "return placed or sized or screens", SCREENS, "each_screen"),
    Guard("a share ends with its screen", "", SCREENS, "a_frame_ends"),
    Guard("a share ends with its frame", "", SCREENS, "a_frame_ends"),
    Guard("a program gets the screen that its user has chosen", "if False:", SCREENS, "only_the_screen"),
    Guard("a session is its own program's", "if found is None:", SCREENS, "only_the_screen"),
    Guard("programs of a sandbox have bounds of their own screens", "if False:", SCREENS, "has_bounds"),
    Guard("a picture of a window has bounded work", "if False:", SCREENS, "ten_thousand_surfaces"),
    Guard("a program that hangs up ends its own stream alone", "if True:", SCREENS, "hangs_up"),
    Guard("pictures of a window end with it", "return True", SCREENS, "end_with_it"),
    Guard("pages are kept from a jail", "", "tests/attack/test_transfer_jail.py", "pages"),
    Guard("pages are kept with little memory", "", PRINTING, "mistake_about_sizes"),
    Guard("room for a page to be printed", "", PRINTING, "leave_room"),
    Guard("programs of a sandbox have bounds of their own printing", "if False:", PRINTING, "has_bounds"),
    Guard("what is not printed is not asked about for ever", "", PRINTING, "come_no_more"),
    Guard("a document whose program hangs up was refused", "if False:", PRINTING, "hang_up"),
    Guard("paper of a record", "", PRINTING, "paper_of"),
    Guard("names are of files that are saved", "if False:", DIALOGS, "does_not_say"),
    Guard("names of several files lead nowhere else", "if False:", DIALOGS, "taken_over"),
    Guard("several files replace none of the folder", "if True:", DIALOGS, "replace_none"),
    Guard("size of what is printed", "if False:", PRINTING, "size_of_the_record"),
    Guard("a sandbox prints one document at a time", "if True:", PRINTING, "ask_once"),
    Guard("a sandbox learns nothing of the desktop's printers by a failure", "raise found from error", PRINTING, "learns_nothing"),
    Guard("the printer is the one that the user was asked about", "if False:", PRINTING, "one_of_the_question"),
    Guard("a number is never that of another row", "given = len(children) + 1", TRAY, "under_the_pointer"),
    Guard("a row that has gone does nothing", "return self._by_number[number].row.click if event == 'clicked' else None", TRAY, "under_the_pointer"),
    Guard("only settings of the table reach a sandbox", "if True:", "tests/attack/test_desktop_settings.py", "stay_on"),
    Guard("what is chosen is a file of the desktop", "if False:", DIALOGS, "not_a_file"),
    Guard("the name of a filter is one line", "return one.name or '*', rules", DIALOGS, "one_line"),
    Guard("an answer is the portal's own", "return MatchRule(type='signal', path=path, interface=interface)", DIALOGS, "only_the_portal"),
    Guard("dialogs that are dismissed come no more", "", DIALOGS, "are_few"),
    Guard("what may not be copied into a sandbox is not chosen for it", "if False:", DIALOGS, "are_few"),
    Guard("a sandbox has one dialog at a time", "if True:", DIALOGS, "are_few"),
    Guard("a sandbox learns nothing of the desktop's files by a failure", "raise found from error", DIALOGS, "learns_nothing"),
    Guard("several files have names that differ", "if False:", DIALOGS, "several_files"),
    Guard("several files are saved in the folder that was chosen", "if False:", DIALOGS, "one_folder"),
    Guard("a chosen file is not a sandbox's link to another one", "return path", DIALOGS, "sandboxs_link"),
    Guard("a sandbox saves nothing hidden", "if False:", DIALOGS, "nothing_is_saved"),
    Guard("no hidden file is suggested", "pass", DIALOGS, "suggested_name"),
    Guard("suggested name checked in the worker", "name = untrusted_name", DIALOGS, "suggested_name"),
    Guard("programs of a sandbox have bounds of their own dialogs", "if False:", DIALOGS, "has_bounds"),
    Guard("a program closes its own dialogs", "if dialog is None:", DIALOGS, "closes_no_dialog"),
    Guard("what is saved does not replace what was changed here", "if False:", DIALOGS, "changed_here"),
    Guard("only a file is replaced by what is saved", "if False:", DIALOGS, "only_a_file"),
    Guard("a pattern of a dialog has few stars", "_Glob = Annotated[str, msgspec.Meta(max_length=64)]", "tests/attack/test_file_dialogs.py", "few_stars"),
    Guard("rules may have changed while the user chose", "", "tests/attack/test_file_dialogs.py", "while_the_user_chose"),
    Guard("saved files are kept from a jail", "", "tests/attack/test_transfer_jail.py", "save"),
    Guard("a sandbox changes its own notifications", "return list(self._notices.values())", HOSTILE, "another_sandbox"),
    Guard("changes of a notification are paced", "return True", HOSTILE, "changes_have"),
    Guard("notifications of a sandbox are few", "if False:", HOSTILE, "ten_thousand"),
    Guard("notifications of disposables are their record's", "own = sum(one.lease.sandbox == record for one in self._notices.values())", HOSTILE, "of_their_record"),
    Guard("notifications of all sandboxes are few", "return True", HOSTILE, "total"),
    Guard("only a rule makes a notification critical", "if False:", HOSTILE, "urgency"),
    Guard("a sandbox's text is plain", "body = notice.past.body", HOSTILE, "text_is_plain"),
    Guard("a message of a sandbox's program is sent whole in time", "within = math.inf", WORKER, "never_ends"),
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
    Guard("a picture of an icon has one size", "if False:", ICONS, "one_size"),
    Guard("a flood of icons waits in its sender", "pass", ICONS, "a_thousand"),
    Guard("a caller's connections share a pace", "pace = fresh", ICONS, "share_a_pace"),
    Guard("icons of a sandbox are few", "if False:", ICONS, "a_thousand"),
    Guard("icons leave places to other sandboxes", "return True", ICONS, "sixteen_icons or leave_an_icon"),
    Guard("icons that wait learn of a free place", "", ICONS, "that_waits"),
    Guard("icons that wait are few", "if False:", ICONS, "of_a_daemon_wait"),
    Guard("icons follow the colour of their record", "pass", ICONS, "record_has_now"),
    Guard("an icon that ended by itself is forgotten", "if False:", ICONS, "end_by_themselves"),
    Guard("places of icons come back", "pass", ICONS, "end_with_their"),
    Guard("clicks on icons are paced", "if True:", ICONS, "clicks_of_a_program"),
    Guard("a sandbox's title is plain, and after its name", "words = ask.title", ICONS, "title_is_plain"),
    Guard("an icon is in the frame of its sandbox", "return pixels", ICONS, "covers_its_frame"),
    Guard("programs of a sandbox have bounds of their own icons", "if False:", ICONS, "guests_daemon"),
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
