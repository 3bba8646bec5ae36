"""Messages between our processes, a set in each module.

Processes: worker, brokerctl (accept_loop); pump and acceptor, vitrail-local, before it
is confined, viewer, host (acceptor); viewer, worker, brokerctl (agent, clipboard,
transfer, worker); authority, viewer (authority); session children, pump and acceptor,
vitrail-local, before it is confined, viewer, host, brokerctl (captured_stderr);
vitrail-local, before it is confined, viewer, host, worker, brokerctl (channel); most
processes (event_loop, fdpass, fork_server, in_thread); vitrail-local, before it is
confined, viewer, host (host_viewer); session children, vitrail-local, before it is
confined, viewer, host (process_figures); authority, prompt agent, vitrail-access
(prompt); session children, pump and acceptor, viewer, host, brokerctl (pump); vitrail-
local, before it is confined, viewer, host, shipper, worker, brokerctl (sealed_memfd);
viewer, security key (security_key); authority, helpers (starter); authority, helpers,
session children, vitrail-local, before it is confined, viewer, host (warrant); viewer,
brokerctl (wayland_rules).
"""
