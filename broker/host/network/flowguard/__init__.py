"""The flowguard: the process that judges a sandbox's flows by its rules.

Processes: switch, flowguard (dns_messages, rates); flowguard (dns_streams, flow_filter,
flows, guest_names, link_packets, public_resolvers, quic_hello, rules, tls_hello).
"""
