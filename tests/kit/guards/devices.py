"""The guards of USB devices and security keys, as ``mutation`` describes them.

``python -m tests.kit.guards.devices [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("values pair one to one", "policy/rules/device.py", "        left.remove(found)\n", "", "tests/policy/rules/test_device.py", "corpus"),
    Guard("unnamed keyboards", "policy/rules/device.py", "            if risky and not (wanted is not None and wanted.names(interface)):", "            if False:", "tests/policy/rules/test_device.py", "never_match"),
    Guard("a key twice in JSON", "policy/rules/device_json.py", "    if isinstance(value, _Repeated):", "    if False:", "tests/policy/rules/test_device.py", "corpus"),
    Guard("an unknown key in JSON", "policy/rules/device_json.py", "        if key not in known:", "        if False:", "tests/policy/rules/test_device.py", "corpus"),
    Guard("HID interfaces in rules", "policy/rules/engine.py", '    return "with-interface" if wanted.unnamed(device, any_hid=True) else ""', '    return ""', "tests/policy/rules/test_device_rules.py", "conditions_decide"),
    Guard("a grant needs a device", "policy/rules/engine.py", '        if rule.action == "deny" or not wanted.conditions:', "        if True:", "tests/policy/rules/test_device_rules.py", "grants_need"),
    Guard("no interface is not storage only", "policy/rules/device.py", 'or (name == "class" and not values)', "", "tests/policy/rules/test_device_rules.py", "conditions_decide"),
    Guard("descriptors are whole", "broker/devices/descriptors.py", "        if size < 2 or at + size > len(untrusted):", "        if size < 2:", "tests/broker/devices/test_descriptors.py", "refused"),
    Guard("interfaces are counted", "broker/devices/descriptors.py", "            if len(found) > limits.DEVICE_INTERFACES:", "            if False:", "tests/broker/devices/test_descriptors.py", "interfaces_are_bounded"),
    Guard("a string is never shortened", "broker/devices/description.py", "    if len(clean) > most:", "    if False:", "tests/broker/devices/test_descriptors.py", "escaped_and_bounded"),
    Guard("ports are held", "broker/devices/table.py", "        if early <= 0 and not port.held:", "        if True:", "tests/broker/devices/test_table.py", "hundred_times"),
    Guard("one owner", "broker/devices/table.py", "        if plug.state is not State.PLUGGED:", "        if False:", "tests/broker/devices/test_table.py", "two_sandboxes"),
    Guard("hubs stay", "broker/devices/table.py", "        if plug.device.hub:", "        if False:", "tests/broker/devices/test_table.py", "hubs"),
    Guard("a swap during the attach", "broker/devices/table.py", "        if plug.gone or self._in_port.get(plug.device.port) is not plug:", "        if False:", "tests/broker/devices/test_table.py", "swap_during"),
    Guard("changed descriptors", "broker/devices/table.py", "        if known is not None and known.device.fingerprint == device.fingerprint:", "        if known is not None and known.device.number == device.number:", "tests/broker/devices/test_table.py", "changed_descriptors"),
    Guard("ports are names", "broker/host/devices/sysfs.py", "        if not PORT.fullmatch(port):", "        if False:", "tests/broker/host/devices/test_sysfs.py", "never_opened"),
    Guard("malformed devices are gone", "broker/host/devices/monitor.py", "                self._removed(port)\n                self._malformed(port, found)", "                self._malformed(port, found)", "tests/broker/host/devices/test_sysfs.py", "malformed"),
    Guard("HID interfaces in records", "broker/host/devices/records.py", "            and record.rule.unnamed(facts, any_hid=True) is None\n", "", "tests/broker/host/devices/test_records.py", "never_leave"),
    Guard("a record has a condition", "broker/host/devices/records.py", "    if not rule.conditions:", "    if False:", "tests/broker/host/devices/test_records.py", "mistakes"),
    Guard("records bound what is attached", "broker/viewer/devices/desk.py", '            if not {lease.sandbox, "*"}.intersection(item.sandboxes):', "            if False:", "tests/broker/viewer/devices/test_desk.py", "records_of_the_host"),
    Guard("one candidate or none", "broker/viewer/devices/desk.py", "        if len(wanted) == 1:", "        if wanted:", "tests/broker/viewer/devices/test_desk.py", "two_sandboxes"),
    Guard("an answer is for one device", "broker/authz/permit.py", "keeps=keeps(answer.limits) if request.device is None else (Keep.ONCE,)", "keeps=keeps(answer.limits)", "tests/broker/viewer/devices/test_desk.py", "never_remembered"),
    Guard("devices end with the sandbox", "broker/viewer/devices/desk.py", '            holding.end("the sandbox stopped")\n', "            pass\n", "tests/broker/viewer/devices/test_desk.py", "end_of_a_sandbox"),
    Guard("CBOR keys once", "broker/devices/cbor.py", "            if key in found:", "            if False:", "tests/broker/devices/test_security_key.py", "ambiguous"),
    Guard("CBOR in its shortest form", "broker/devices/cbor.py", "        if value < least:", "        if False:", "tests/broker/devices/test_security_key.py", "ambiguous"),
    Guard("management of the key", "broker/devices/security_key.py", "                (command == _INFO and not body)", "                command not in {_PIN, _NEXT}", "tests/broker/devices/test_security_key.py", "management"),
    Guard("harmless PIN commands", "broker/devices/security_key.py", "    return isinstance(sub, int) and not isinstance(sub, bool) and sub in _PIN_HARMLESS", "    return isinstance(sub, int)", "tests/broker/devices/test_security_key.py", "pins"),
    Guard("next of an allowed assertion", "broker/devices/security_key.py", "command == _NEXT and not body and self._may_go_on", "command == _NEXT and not body", "tests/broker/devices/test_security_key.py", "next_assertion"),
    Guard("a verdict has its number", "broker/devices/security_key.py", "or made.ask.number != number ", "", "tests/broker/devices/test_security_key.py", "verdict_about"),
    Guard("channels of a guest", "broker/devices/security_key.py", "            if len(self._channels) >= limits.CTAP_CHANNELS:", "            if False:", "tests/broker/devices/test_security_key.py", "channels_are_bounded"),
    Guard("no rule, no key", "broker/viewer/devices/security_keys.py", "    if not _granted_at_all(opening, decider):", "    if False:", "tests/integration/test_security_key.py", "without_a_rule"),
)  # fmt: skip
"""Each: its name, the file, the guard, the file without it, the test, a word."""


if __name__ == "__main__":
    main(GUARDS)
