"""The guards of launchers, as ``guards`` describes them.

``python -m tests.kit.guards.launchers [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard(
        "a machine's lock on its sockets is not waited for",
        "return {} if uds is None else await hybrid_doors(uds)",
        "tests/attack/test_vsock_lock.py",
        "micro_vm",
    ),
    Guard(
        "a domain's lock on its sockets is not waited for",
        "return await hybrid_doors(Path(self.claim.base))",
        "tests/attack/test_vsock_lock.py",
        "libvirt_domain",
    ),
    Guard(
        "a flood of a monitor is read slowly",
        "",
        "tests/attack/test_monitor_flood.py",
        "monitors_events",
    ),
    Guard(
        "one machine keeps no broker from starting",
        "except (VitrailError, OSError) as error:",
        "tests/attack/test_unreadable_messages.py",
        "keeps_no_broker",
    ),
    Guard(
        "a message that is nested deep is an error of its sender",
        "UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)",
        "tests/attack/test_unreadable_messages.py",
        "unreadable_json",
    ),
    Guard(
        "a VMM leaves nothing beside its API that cannot be removed",
        "",
        "tests/attack/test_stubborn_trees.py",
        "beside_its_api",
    ),
    Guard(
        "a jailed process leaves nothing that cannot be removed",
        "",
        "tests/attack/test_stubborn_trees.py",
        "jailed_process",
    ),
    Guard(
        "a box gets no file by a link that a sandbox may have made",
        "",
        "tests/attack/test_planted_links.py",
        "box_gets",
    ),
    Guard(
        "a box in haste follows no link",
        "if False:",
        "tests/attack/test_planted_links.py",
        "haste",
    ),
    Guard(
        "the box of a record in haste binds no path by a link",
        "if False:",
        "tests/attack/test_planted_links.py",
        "haste",
    ),
    Guard(
        "a bound path leads through no link of a sandbox",
        "",
        "tests/attack/test_planted_links.py",
        "bound_path",
    ),
    Guard(
        "a read-only file in a writable directory is read-only",
        "binds.reverse()",
        "tests/attack/test_planted_links.py",
        "read_only",
    ),
    Guard(
        "a container whose brokerctl was killed keeps its home in use",
        "lock = ()",
        "tests/e2e/test_podman_state.py",
        "in_use",
    ),
    Guard(
        "a sandbox's lock is not waited for",
        "listener = await open_listener(place, descriptors=True, sock=mine)",
        "tests/broker/host/test_acceptors.py",
        "locks_its_directory",
    ),
    Guard(
        "a box's programs open few files",
        "return ''",
        "tests/conformance/launchers/test_launchers.py",
        "in_flight and bwrap",
    ),
    Guard(
        "a box has a bounded number of processes",
        "_FEW_PROCESSES = ''",
        "tests/attack/test_box_processes.py",
        "bounded",
    ),
    Guard(
        "a container's programs open few files",
        "return ()",
        "tests/conformance/launchers/test_launchers.py",
        "in_flight and podman",
    ),
    Guard(
        "a container of a person's own command opens few files",
        "",
        "tests/broker/launch/podman/test_hook.py",
        "open_files",
    ),
    Guard(
        "a tree's programs open few files",
        "return ()",
        "tests/conformance/launchers/test_launchers.py",
        "in_flight and nspawn",
    ),
    Guard(
        "an image brings no annotation of ours",
        "if True:",
        "tests/broker/launch/podman/test_hook.py",
        "annotation_of_the_image",
    ),
    Guard(
        "the hook speaks with a broker of its user's",
        "if False:",
        "tests/broker/launch/podman/test_hook.py",
        "another_user",
    ),
    Guard(
        "a VMM's reply is bounded",
        "if False:",
        "tests/broker/launch/monitors/test_http.py",
        "without_an_end",
    ),
    Guard(
        "a silent VMM is not waited for",
        "if True:",
        "tests/broker/launch/monitors/test_api.py",
        "silent",
    ),
    Guard(
        "a VMM's API socket is not a link",
        "place = os.open(self._path, os.O_PATH | os.O_CLOEXEC)",
        "tests/broker/launch/monitors/test_api.py",
        "gets_no_byte",
    ),
    Guard(
        "a VMM's API socket is its own",
        "if False:",
        "tests/broker/launch/monitors/test_api.py",
        "gets_no_byte",
    ),
    Guard(
        "a VMM that takes a tap device only has no network",
        "if False:",
        "tests/policy/records/test_build.py",
        "another_vmm_cannot",
    ),
    Guard(
        "Firecracker's root disk is read-only",
        "yield _drive('root', spec.root, root=True, read_only=False)",
        "tests/broker/launch/firecracker/test_requests.py",
        "read_only_and_first",
    ),
    Guard(
        "Cloud Hypervisor's root disk is read-only",
        "disks.append(_disk(spec.root, 'vitrail-root', read_only=False))",
        "tests/broker/launch/cloud_hypervisor/test_requests.py",
        "read_only",
    ),
    Guard(
        "a disk of Cloud Hypervisor is raw whatever it begins with",
        "format_name = 'Qcow2'",
        "tests/broker/launch/cloud_hypervisor/test_requests.py",
        "raw",
    ),
    Guard(
        "crosvm's root disk is read-only",
        "words += _disk(spec.root, 'vitrail-root', read_only=False)",
        "tests/broker/launch/crosvm/test_arguments.py",
        "read_only",
    ),
    Guard(
        "a path is one value of crosvm's options",
        "if False:",
        "tests/broker/launch/crosvm/test_arguments.py",
        "another_option",
    ),
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
        "a program waits for its lease",
        "_SCRIPT = 'exec \"$@\" </dev/null'",
        "tests/conformance/launchers/test_launchers.py",
        "before_its_lease",
    ),
    Guard(
        "a file beside the tree adds nothing to a container",
        "_SETTINGS = ()",
        "tests/broker/launch/nspawn/test_process.py",
        "beside_the_tree",
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
    Guard(
        "a container of root's is leased by root's own hook alone",
        "if False:",
        "tests/broker/launch/podman/test_hook.py",
        "leases_no_container_of_root_s",
    ),
    Guard(
        "a container's record is a regular file",
        "if False:",
        "tests/broker/launch/podman/test_hook.py",
        "no_regular_file",
    ),
    Guard(
        "root's settings are root's alone",
        "if False:",
        "tests/broker/launch/podman/test_rootful_hook.py",
        "others_can_write",
    ),
    Guard(
        "root reads the records of a container's person with the person's rights",
        "pass",
        "tests/broker/launch/podman/test_rootful_hook.py",
        "rights_of_the_person",
    ),
    Guard(
        "a container in the host's namespaces gets no lease of root's",
        "if False:",
        "tests/broker/launch/podman/test_rootful_hook.py",
        "host_s_namespaces",
    ),
    Guard(
        "a container of root's that can leave it gets no lease",
        "if False:",
        "tests/broker/launch/podman/test_rootful_hook.py",
        "can_leave",
    ),
    Guard(
        "root mounts no other directory than a launch's",
        "if False:",
        "tests/broker/launch/podman/test_rootful_hook.py",
        "never_opened",
    ),
    Guard(
        "root mounts a directory of the person's own",
        "if False:",
        "tests/broker/launch/podman/test_rootful_hook.py",
        "another_user_s",
    ),
    Guard(
        "root's containers belong to a person's broker",
        "if False:",
        "tests/broker/launch/podman/test_rootful_hook.py",
        "without_a_person",
    ),
    Guard(
        "a permission of the person's own does not stand beside ours",
        "kept = present",
        "tests/broker/launch/flatpak/test_overrides.py",
        "does_not_stand_beside",
    ),
    Guard(
        "the name of a control group is escaped",
        "shown = group",
        "tests/broker/host/test_machined.py",
        "is_escaped_in_the_log",
    ),
    Guard(
        "another user's process carries no machine's connections",
        "if False:",
        "tests/broker/host/test_machined.py",
        "another_user_serves",
    ),
    Guard(
        "an error about one machine ends no other's look",
        "await self._look_at(record, name)",
        "tests/broker/host/test_machined.py",
        "keeps_none_of_the_others",
    ),
    Guard(
        "only a socket is opened to other users",
        "(directory / service).chmod(0o666)",
        "tests/broker/host/test_machined.py",
        "only_a_socket",
    ),
    Guard(
        "a leader's number that is used again is not the leader",
        "pass",
        "tests/conformance/launchers/test_launchers.py",
        "number_now",
    ),
    Guard(
        "a box's frames pass the filter",
        "if True:",
        "tests/e2e/test_box_network.py",
        "bent_routes",
    ),
    Guard(
        "the host's own network is not a box's",
        "if False:",
        "tests/e2e/test_box_network.py",
        "given_to_no_process",
    ),
    Guard(
        "an application runs in one sandbox at a time",
        "pass",
        "tests/broker/launch/flatpak/test_overrides.py",
        "held_by_one_run",
    ),
    Guard(
        "an instance that has ended vouches for no process",
        "if info.pid_namespace not in inside:",
        "tests/broker/peers/test_flatpak_instances.py",
        "vouches_for_no_process",
    ),
    Guard(
        "an instance of another application is refused",
        "if False:",
        "tests/broker/peers/test_identity.py",
        "flatpak",
    ),
)

if __name__ == "__main__":
    main(GUARDS)
