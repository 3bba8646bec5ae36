"""Messages between our processes, a set in each module.

Processes: worker, brokerctl (accept_loop); pump and acceptor, vitrail-local, launcher,
viewer, host (acceptor); viewer, worker, brokerctl (agent, clipboard, transfer, worker);
authority, viewer (authority); session children, pump and acceptor, vitrail-local,
launcher, viewer, host, brokerctl (captured_stderr); vitrail-local, launcher, viewer,
host, worker, brokerctl (channel); most processes (event_loop, fdpass, fork_server,
in_thread); vitrail-local, launcher, viewer, host (host_viewer); authority, prompt
agent, vitrail-access (prompt); session children, pump and acceptor, viewer, host,
brokerctl (pump); vitrail-local, launcher, viewer, host, shipper, worker, brokerctl
(sealed_memfd); session children, viewer, security key (security_key); authority,
helpers (starter); viewer, brokerctl (wayland_rules).
"""
