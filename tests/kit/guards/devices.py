"""The guards of USB devices and security keys, as ``mutation`` describes them.

``python -m tests.kit.guards.devices [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("a device goes to no other crosvm by a link", "flags = os.O_PATH | os.O_CLOEXEC", "tests/integration/test_device_ways.py", "link_to_the_socket"),
    Guard("a process of a security key has none of the broker's files", "output = None", "tests/attack/test_broker_stderr.py", "was_taken_over"),
    Guard("a process of a security key has no variables of the session", "env = None", "tests/attack/test_broker_stderr.py", "was_taken_over"),
    Guard("lines about security keys are few", "if True:", "tests/attack/test_broker_stderr.py", "fills_no_log"),
    Guard("messages of a security key's process are read at a pace", "", "tests/attack/test_monitor_flood.py", "asks_and_cancels"),
    Guard("an answer is for its own request", "if False:", "tests/broker/devices/test_security_key.py", "not_the_next_ones"),
    Guard("a revoked permission is not repeated", "if True:", "tests/broker/devices/test_security_key.py", "revoked_u2f"),
    Guard("one use for each question", "repeated = self._allowed is not None", "tests/broker/devices/test_security_key.py", "signature_is_one_use"),
    Guard("a permission that is revoked is cancelled at the key", "if not allow and not made.sent:", "tests/broker/devices/test_security_key.py", "revoked_before_the_touch"),
    Guard("a key without a rule is taken back", "while True:", "tests/integration/test_security_key.py", "without_a_rule_is_taken_back"),
    Guard("the relying party's letters", "party = said.host", "tests/broker/viewer/devices/test_security_keys.py"),
    Guard("a running service keeps its socket", "", "tests/integration/test_device_service.py", "second_service"),
    Guard("a device of another service is left with it", "if False:", "tests/attack/test_device_service.py", "another_service"),
    Guard("unnamed keyboards", "if False:", "tests/policy/records/test_device.py", "never_match"),
    Guard("a key twice in JSON", "if False:", "tests/policy/records/test_device.py", "corpus"),
    Guard("an unknown key in JSON", "if False:", "tests/policy/records/test_device.py", "corpus"),
    Guard("HID interfaces in rules", "return ''", "tests/policy/rules/test_device_rules.py", "conditions_decide"),
    Guard("a grant needs a device", "if True:", "tests/policy/rules/test_device_rules.py", "grants_need"),
    Guard("no interface is not storage only", "if not wanted.holds(values):", "tests/policy/rules/test_device_rules.py", "conditions_decide"),
    Guard("descriptors are whole", "if size < 2:", "tests/broker/devices/test_descriptors.py", "refused"),
    Guard("interfaces are counted", "if False:", "tests/broker/devices/test_descriptors.py", "interfaces_are_bounded"),
    Guard("a string is never shortened", "if False:", "tests/broker/devices/test_descriptors.py", "escaped_and_bounded"),
    Guard("ports are held", "if True:", "tests/broker/devices/test_table.py", "hundred_times"),
    Guard("one owner", "if False:", "tests/broker/devices/test_table.py", "two_sandboxes"),
    Guard("hubs stay", "if False:", "tests/broker/devices/test_table.py", "hubs"),
    Guard("a swap during the attach", "if False:", "tests/broker/devices/test_table.py", "swap_during"),
    Guard("changed descriptors", "if known is not None and known.device.number == device.number:", "tests/broker/devices/test_table.py", "changed_descriptors"),
    Guard("ports are names", "if False:", "tests/broker/host/devices/test_sysfs.py", "never_opened"),
    Guard("malformed devices are gone", "", "tests/broker/host/devices/test_sysfs.py", "malformed"),
    Guard("HID interfaces in records", "found = dict.fromkeys((name for record in self.records if record.rule.matches(facts) for name in record.sandboxes))", "tests/broker/host/devices/test_records.py", "never_leave"),
    Guard("a record has a condition", "if False:", "tests/broker/host/devices/test_records.py", "mistakes"),
    Guard("records bound attached devices", "if False:", "tests/broker/viewer/devices/test_desk.py", "records_of_the_host"),
    Guard("one candidate or none", "if wanted:", "tests/broker/viewer/devices/test_desk.py", "two_sandboxes"),
    Guard("a declined device is not asked about again", "if item.number in self._open:", "tests/broker/viewer/devices/test_desk.py", "declined"),
    Guard("chosen and stopped meanwhile", "if True:", "tests/broker/viewer/devices/test_desk.py", "stopped_meanwhile"),
    Guard("devices end with the sandbox", "pass", "tests/broker/viewer/devices/test_desk.py", "end_of_a_sandbox"),
    Guard("records are the administrator's", "if False:", "tests/attack/test_device_service.py", "others_may_write"),
    Guard("the socket's directory", "if False:", "tests/attack/test_device_service.py", "others_can_replace"),
    Guard("a swapped device is not left bound", "now = held", "tests/attack/test_device_service.py", "swapped_while_it_is_bound"),
    Guard("only devices of usbip-host", "if True:", "tests/attack/test_device_service.py", "killed_service"),
    Guard("a killed service left devices", "", "tests/attack/test_device_service.py", "start_takes_back"),
    Guard("one device of a port at a time", "while False:", "tests/attack/test_device_service.py", "last_is_back"),
    Guard("one look for many events", "if False:", "tests/attack/test_device_service.py", "flood_of_events"),
    Guard("devices go to announced leases", "if False:", "tests/attack/test_link_devices.py", "no_other_lease"),
    Guard("devices end with the epoch", "pass", "tests/attack/test_link_devices.py", "lost_link"),
    Guard("pages of devices end", "if False:", "tests/attack/test_link_devices.py", "without_end"),
    Guard("targets are names", "if False:", "tests/broker/host/devices/test_records.py", "machines_with_mistakes"),
    Guard("records that changed", "if False:", "tests/attack/test_device_service.py", "record_that_was_removed"),
    Guard("CBOR keys once", "if False:", "tests/broker/devices/test_security_key.py", "ambiguous"),
    Guard("CBOR in its shortest form", "if False:", "tests/broker/devices/test_security_key.py", "ambiguous"),
    Guard("management of the key", "passes = command not in {_PIN, _NEXT} or (command == _NEXT and (not body) and self._may_go_on) or (command == _PIN and pin_is_harmless(body))", "tests/broker/devices/test_security_key.py", "management"),
    Guard("harmless PIN commands", "return isinstance(sub, int)", "tests/broker/devices/test_security_key.py", "pins"),
    Guard("next of an allowed assertion", "passes = command == _INFO and (not body) or (command == _NEXT and (not body)) or (command == _PIN and pin_is_harmless(body))", "tests/broker/devices/test_security_key.py", "next_assertion"),
    Guard("a verdict has its number", "if made is None or made.ask is None or made.sent:", "tests/broker/devices/test_security_key.py", "verdict_about"),
    Guard("channels of a guest", "if False:", "tests/broker/devices/test_security_key.py", "channels_are_bounded"),
    Guard("no rule, no key", "if False:", "tests/integration/test_security_key.py", "without_a_rule"),
    Guard("values pair one to one", "", "tests/policy/records/test_device.py", "corpus"),
    Guard("an answer is for one device", "return Question(sandbox=lease.sandbox, lease=lease.id, record=lease.record, label=lease.sandbox if label is None else label.name, colour='#555555' if label is None else label.colour, service=untrusted_word(request.service), argument=untrusted_word(request.argument.removeprefix('+')), words=request.words or wants(request.service), details=tuple(((n, untrusted_word(value)) for n, value in request.details or claims.items() if value)), targets=targets, default_target=default, keeps=keeps(answer.limits), seconds=answer.limits.ttl or 0, rule=answer.where)", "tests/broker/viewer/devices/test_desk.py", "never_remembered"),
    Guard("a title names few kinds", "more = 0", "tests/attack/test_devices.py", "title"),
    Guard("a list fits into a packet", "if False:", "tests/attack/test_devices.py", "many_devices"),
    Guard("a late device is taken back", "if False:", "tests/attack/test_devices.py", "given_up"),
    Guard("connections to the security key", "if False:", "tests/attack/test_devices.py", "processes"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)
