"""The guards of a sandbox's flows, as ``guards`` describes them.

``python -m tests.kit.guards.network [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("what is forgotten here has ended at passt, too", 'self._end(flow, "idle")', "tests/broker/host/network/test_flow_filter.py", "idle_flows"),
    Guard("a connection by the ports of an earlier one is a flow of its own", "if False:", "tests/broker/host/network/test_flow_filter.py", "same_ports"),
    Guard("a guest sends from its address", 'if packet is None:', "tests/broker/host/network/test_flow_filter.py", "odd_packets"),
    Guard("name servers are ours alone", 'if False:', "tests/broker/host/network/test_flow_filter.py", "no_other_name_server"),
    Guard("public name servers are not asked by HTTPS", 'if False:', "tests/broker/host/network/test_flow_filter.py", "not_asked_by_https"),
    Guard("a connection begins without data", 'if False:', "tests/broker/host/network/test_flow_filter.py", "odd_packets"),
    Guard("new flows have a pace", 'if full:', "tests/broker/host/network/test_flow_filter.py", "limits_hold"),
    Guard("an inner address is open by its own rule", 'if False:', "tests/broker/host/network/test_flow_filter.py", "rebinding"),
    Guard("few packets wait for an answer", 'if True:', "tests/broker/host/network/test_flow_filter.py", "few_packets"),
    Guard("QUIC's names are not read, so it is open by address only", 'if False:', "tests/broker/host/network/test_flow_filter.py", "quic"),
    Guard("a record's limits are at most those of everybody", "self._most_flows = given.flows", "tests/broker/host/network/test_flow_filter.py", "fewer_flows or everybody"),
    Guard("a record closes encrypted hellos", "if False:", "tests/broker/host/network/test_flow_filter.py", "records_matter"),
    Guard("a side that is too fast is not read", "if False:", "tests/broker/host/network/test_flow_guard.py", "too_fast"),
    Guard("packets of IPv6 have one plain form", "if False:", "tests/broker/host/network/test_ipv6.py", "odd_packets"),
    Guard("a guest speaks for its own address, and seldom", "if True:", "tests/broker/host/network/test_ipv6.py", "own_ipv4"),
    Guard("a guest speaks for its own addresses of IPv6, and seldom", "if self._prefix is not None:", "tests/broker/host/network/test_ipv6.py", "own_ipv6"),
    Guard("a link's own packets are questions for neighbours", "if False:", "tests/broker/host/network/test_ipv6.py", "special_addresses"),
    Guard("an IPv4 address in one of IPv6 is judged as it is elsewhere", "if False:", "tests/broker/host/network/test_ipv6.py", "special_addresses"),
    Guard("DHCP is of IPv4", "return packet.protocol == UDP and (client, server) == (68, 67)", "tests/broker/host/network/test_ipv6.py", "ports_of_dhcp"),
    Guard("an address in an address is judged", "if False:", "tests/broker/host/network/test_ipv6.py", "rebinding"),
    Guard("a rule about an IPv4 address is one about those that lead to it", "return found", "tests/policy/rules/test_network_rules.py", "translator"),
    Guard("an address has no zone", "return str(ip_address(text))", "tests/policy/rules/test_network_rules.py", "canonical"),
    Guard("what was checked is what is sent again", 'return True', "tests/broker/host/network/test_flow_filter.py", "does_not_change"),
    Guard("a hello passes in order", 'if False:', "tests/broker/host/network/test_flow_filter.py", "does_not_change"),
    Guard("the server's name is a name of the address", 'if False:', "tests/broker/host/network/test_flow_filter.py", "another_server"),
    Guard("the server's name is permitted itself", 'if False:', "tests/broker/host/network/test_flow_filter.py", "shared_address"),
    Guard("nothing comes in without a flow", 'self.to_guest.append(frame)\nreturn', "tests/broker/host/network/test_flow_filter.py", "belongs_to_no_flow"),
    Guard("questions have a pace", 'slow = False', "tests/broker/host/network/test_flow_filter.py", "questions_have"),
    Guard("a name that no rule allows is refused", 'if place is None:', "tests/broker/host/network/test_flow_filter.py", "no_rule_allows"),
    Guard("bindings are bounded", 'while False:', "tests/broker/host/network/test_flow_filter.py", "bindings_are"),
    Guard("an address is a name's for its time to live", 'return tuple(reversed(known))', "tests/broker/host/network/test_flow_filter.py", "for_its_time"),
    Guard("destinations are bounded", 'if not self.connected:', "tests/broker/host/network/test_flow_filter.py", "limits_hold"),
    Guard("names lead backwards", 'if False:', "tests/broker/host/network/test_flow_filter.py", "lead_backwards"),
    Guard("a label has no dot", 'if False:', "tests/broker/host/network/test_flow_filter.py", "has_a_dot"),
    Guard("an answer is to its question", 'if False:', "tests/broker/host/network/test_flow_filter.py", "another_question"),
    Guard("an address is of the name that was asked for", 'if kind != A:', "tests/broker/host/network/test_flow_filter.py", "own_addresses"),
    Guard("a hello is bounded", 'if False:', "tests/broker/host/network/test_flow_filter.py", "too_long"),
    Guard("one name", 'if False:', "tests/broker/host/network/test_flow_filter.py", "two_names"),
    Guard("packets have one plain form", 'if False:', "tests/broker/host/network/test_flow_filter.py", "odd_packets"),
    Guard("a filter asks about one canonical host", "good = True", "tests/broker/viewer/test_network.py", "not_a_destination"),
    Guard("a filter's permits are bounded", "if not good or asked.number <= self._last:", "tests/broker/viewer/test_network.py", "permits_are_bounded"),
    Guard("a flow asks the share", "", "tests/broker/viewer/test_network.py", "share"),
    Guard("a filter's flows are bounded", "if False:", "tests/broker/viewer/test_network.py", "flows_are_bounded"),
    Guard("questions for an address are few, and only where it is not known", "if self._leases is not None:", "tests/broker/host/network/test_flow_filter.py", "address_are_few"),
    Guard("a guest that does not read holds few frames", "if True:", "tests/broker/host/network/test_flow_guard.py", "holds_few_frames"),
    Guard("a port has one spelling", "if False:", "tests/attack/test_forwarded_ports.py", "one_spelling"),
    Guard("a forwarded port serves its user alone", "if False:", "tests/attack/test_forwarded_ports.py", "another_user"),
    Guard("connections to a forwarded port are bounded", "places = trio.CapacityLimiter(1000)", "tests/attack/test_forwarded_ports.py", "bounded"),
    Guard("a viewer that does not read decides nothing", "if False:", "tests/broker/host/network/test_flow_guard.py", "does_not_read"),
    Guard("flows are decided where the rules are", "if False:", "tests/broker/host/network/test_flow_guard.py", "no_link"),
    Guard("a network by rules is never another one", "if False:", "tests/policy/records/test_loader.py", "flows_nobody"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)
