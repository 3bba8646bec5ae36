"""The guards of what sandboxes keep, and of machines that are copied.

``python -m tests.kit.guards.state [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("another record's logs stay, whatever its name is", "folders = log_folders(paths, name)", "tests/broker/cli/sandboxes/test_leftovers.py"),
    Guard("a backup's record is compared with a fresh one", "return True", "tests/attack/test_backup_record.py", "further"),
    Guard("a backup's record reaches nothing of this machine", "return []", "tests/attack/test_backup_record.py", "not_written"),
    Guard("a backup is closed by a key", "if False:", "tests/attack/test_backup_closing.py", "without_any_encryption"),
    Guard("a backup named with a passphrase is closed by it alone", "if False:", "tests/attack/test_backup_closing.py", "did_not_close"),
    Guard("all of a backup is inside what the key protects", "if False:", "tests/attack/test_backup_closing.py", "without_integrity"),
    Guard("with a key of age's a backup is age's", "if False:", "tests/attack/test_backup_closing.py", "key_of_age"),
    Guard("another sandbox's backup is imported when the user says so", "if False:", "tests/attack/test_backup_closing.py", "another_sandbox"),
    Guard("a backup is unpacked in a jail", "", "tests/attack/test_backup_tools.py", "taken_over and GZIP"),
    Guard("the header of an encrypted home is read in a jail", "", "tests/attack/test_luks_header.py", "reads_no_home"),
    Guard("a copy of a home has its holes", "os.sendfile(writer, reader, 0, 1 << 30)", "tests/attack/test_home_copies.py", "holes"),
    Guard("a copy of a home has files of several names once", "if False:", "tests/attack/test_home_copies.py", "many_names"),
    Guard("of a parent's console the end is read", "pass", "tests/broker/host/vmm/parent/test_console.py", "terabytes"),
    Guard("the console of a parent that is made has a bound", "console = ConsoleLog(room, 1 << 40, name=_CONSOLE)", "tests/broker/host/vmm/parent/test_console.py", "flooded"),
    Guard("a backup's archive is read in a jail", "", "tests/attack/test_backup_tools.py", "taken_over and TAR"),
    Guard("an imported disk is a regular file", "if False:", "tests/broker/cli/sandboxes/test_backup.py", "link"),
    Guard("a backup changes no rights of our own directory", "", "tests/broker/cli/sandboxes/test_backup.py", "closed"),
    Guard("a copy's words come in their order", "if False:", "tests/broker/host/vmm/parent/test_parent_messages.py", "anything_else"),
    Guard("a parent of another key is not used", "if False:", "tests/broker/host/vmm/parent/test_parent_files.py", "another_key"),
    Guard("a parent under KVM is one of this processor and kernel", 'def _host() -> str:\n    return ""', "tests/broker/host/vmm/parent/test_key.py", "processor"),
    Guard("an image has no key that was drawn while it was built", "_DRAWN = ()", "tests/broker/host/images/test_host_keys.py", "package_drew"),
    Guard("no machine uses host keys of its image", "", "tests/broker/host/images/test_host_keys.py", "before_anything"),
    Guard("a truncated parent is not used", "if False:", "tests/broker/host/vmm/parent/test_parent_files.py", "truncated"),
    Guard("a machine that waited is not used with another key", "if False:", "tests/broker/host/vmm/parent/test_standby.py", "another_machine"),
    Guard("a machine that waited has the network that its record says", "if False:", "tests/broker/host/vmm/parent/test_standby.py", "another_machine"),
    Guard("a copy is one of the parent that was found", "if False:", "tests/broker/host/vmm/parent/test_parent_files.py", "parent_that_was_found"),
    Guard("a machine that waited has the programs of this machine", "if False:", "tests/broker/host/vmm/parent/test_standby.py", "old_helper"),
    Guard("a machine that waited asks the resolver of this place", "if False:", "tests/broker/host/vmm/parent/test_standby.py", "another_place"),
    Guard("a machine that waited has no address that is closed", "if False:", "tests/broker/host/vmm/parent/test_standby.py", "address_is_closed"),
    Guard("waiting machines have no more memory than the record allows", "if False:", "tests/broker/host/vmm/parent/test_standby.py", "no_more_memory"),
    Guard("each standby machine has a separate directory", "directory = self._root / request.record; directory.mkdir(exist_ok=True)", "tests/broker/host/vmm/parent/test_standby.py", "different_places"),
    Guard("a machine that waits ends with its parent's age", "", "tests/broker/host/vmm/parent/test_standby.py", "ends_with_its_parent"),
    Guard("a machine that is being ended is not used", "if False:", "tests/broker/host/vmm/parent/test_standby.py", "ended_once"),
    Guard("no process of a rehearsal outlives it", "if False:", "tests/integration/test_rehearsal.py", "leaves_behind"),
    Guard("the agent carries a user's bytes to no socket of another's", "if False:\n    pass\nelif sock is None or not self._answers:\n    connected(sock, code)\nelse:\n    await_answer(loop, sock, connected)", "tests/attack/test_agent_sockets.py", "not_used"),
    Guard("a rehearsal changes no file of the home", "self._covered = False", "tests/integration/test_rehearsal.py", "home_is_read_only"),
    Guard("no mount of a rehearsal outlives it", "for number, place in ():", "tests/integration/test_rehearsal.py", "file_system"),
    Guard("no changed file of a rehearsal outlives it", "same = True", "tests/integration/test_rehearsal.py", "file_that_it_changed"),
    Guard("what the agent makes in the user's directories is made with its rights", "if True:", "tests/attack/test_agent_sockets.py", "rights"),
    Guard("no shared memory of a rehearsal outlives it", "if False:", "tests/integration/test_rehearsal.py", "leaves_behind"),
    Guard("no file of a rehearsal outlives it", "remove_trees([self._place])", "tests/integration/test_rehearsal.py", "leaves_behind"),
    Guard("dropping a standby machine cancels one that starts, too", "for found in (self._waiting.get(record),):", "tests/broker/host/vmm/parent/test_standby.py", "comes_later"),
    Guard("a kernel that cannot wait for pressure ends nothing", "except ZeroDivisionError:", "tests/broker/host/vmm/parent/test_memory_pressure.py", "cannot_be_awaited"),
    Guard("a record that boots has no machine that waits", "", "tests/broker/host/vmm/parent/test_standby.py", "boots_from_now_on"),
    Guard("a home that is not encrypted is not passed off as one", "if False:", "tests/broker/host/homes/test_encrypted.py", "agree"),
    Guard("a locked home is not opened", "if False:", "tests/broker/host/homes/test_encrypted.py", "locked"),
    Guard("a passphrase on its way is not swapped out, and is read once", "write = os.memfd_create('key'); read = os.open(f'/proc/self/fd/{write}', os.O_RDONLY)", "tests/broker/host/homes/test_encrypted.py", "swapped"),
    Guard("a wrong passphrase is not kept", "if False:", "tests/broker/cli/test_unlock.py", "wrong"),
    Guard("a leftover that stays is in no other sandbox's way", "if error is not None: raise error", "tests/attack/test_stubborn_trees.py", "leftover_that_stays"),
    Guard("a copy of a home opens no pipe", "return set()", "tests/attack/test_stubborn_trees.py", "pipes_and_sockets"),
    Guard("what a viewer that was taken over left among logs ends no later broker", "__import__('shutil').rmtree(old, ignore_errors=True)", "tests/attack/test_stubborn_trees.py", "later_broker and deep"),
    Guard("a directory that is closed to its owner is opened", "if False:", "tests/attack/test_stubborn_trees.py", "resists and closed"),
    Guard("a walk leaves a directory by the way it came", "if False:", "tests/attack/test_stubborn_trees.py", "moved_meanwhile"),
    Guard("a home's lock lives as long as QEMU", "if False:", "tests/integration/test_paused_machines.py", "lock_of_a_home"),
    Guard("no machine that shares memory has a device that frees it", "", "tests/broker/host/vmm/parent/test_key.py", "no_device_that_frees"),
    Guard("a machine does not write into its parent", "share = 'on'", "tests/broker/host/vmm/parent/test_key.py", "maps_its_parent"),
    Guard("no machine can write into the memory of its siblings", "", "tests/broker/host/vmm/parent/test_shared.py", "no_process"),
    Guard("a machine has the memory of the parent whose state it has", "if held is None:", "tests/broker/host/vmm/parent/test_shared.py", "one_memory"),
    Guard("a record that cannot share memory does not ask for it", "if False:", "tests/policy/records/test_build.py", "cannot_share"),
)  # fmt: skip

if __name__ == "__main__":
    main(GUARDS)
