"""Our end of waypipe's wire, the one that faces the sandbox.

What a sandbox's ``waypipe server`` sends is decoded here, with strict limits
and nothing but ``struct`` and ``memoryview``, and handed to the Wayland filter
as messages and files; what the filter answers is encoded back.  Sans-IO: the
shell is ``session.waypipe_shell``, memory comes through ``ports``.

The wire as it is spoken here is described in docs/waypipe.md.
"""
