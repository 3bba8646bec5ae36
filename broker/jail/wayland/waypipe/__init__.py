"""Our end of waypipe's wire, which faces the sandbox.

The stream of a sandbox's ``waypipe server`` is decoded here, with strict limits
and nothing but ``struct`` and ``memoryview``, and passed to the Wayland filter
as messages and files; the filter's replies are encoded back.  Sans-IO: the shell
is ``broker.jail.worker.wayland.waypipe_connection``, memory comes through ``ports``.

The wire as it is spoken here is described in docs/waypipe.md.
"""
