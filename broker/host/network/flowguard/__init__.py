"""The flowguard: the process that judges a sandbox's flows by its rules.

Processes: switch, flowguard (dns_messages, flows, quic_hello, tls_hello); flowguard
(dns_streams, flow_filter, guest_names, link_packets, public_resolvers, rates, rules).
"""
