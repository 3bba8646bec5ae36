"""Records of sandboxes: format, reading, schema.

Processes: authority, session children, brokerctl (build, desktop_tables, folder,
launch_table, launches, loader, record_schema); authority, viewer, vitrail-devices,
brokerctl (device); vitrail-devices, brokerctl (device_json); authority, session
children, viewer, brokerctl (document, field_types, globals, patterns, quantities, scan,
syntax); authority, session children, vitrail-local, before it is confined, viewer,
host, brokerctl (kinds, model).
"""
