"""Messages between our processes, a set in each module.

Processes: worker, brokerctl (accept_loop); pump and acceptor, viewer, host (acceptor);
viewer, worker, brokerctl (agent, clipboard, transfer, worker); authority, viewer
(authority); pump and acceptor, viewer, host, brokerctl (captured_stderr, pump); viewer,
host, worker, brokerctl (channel); authority, viewer, host, shipper, shipper in its
jail, worker (event_loop); most processes (fdpass, fork_server, in_thread); viewer, host
(host_viewer); authority, prompt agent, vitrail-access (prompt); viewer, host, shipper,
worker, brokerctl (sealed_memfd); viewer, security key (security_key); authority,
helpers (starter); viewer, brokerctl (wayland_rules).
"""
