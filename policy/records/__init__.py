"""Records of sandboxes: format, reading, schema.

The authority, brokerctl and session children read the files.  Host and viewer have
``model``, ``kinds``, ``places`` and ``mounts.user_files`` only, for records that the
authority sends them.
"""
