"""Records of sandboxes: format, reading, schema.

Processes: authority, session children, brokerctl (build, desktop_tables, document,
folder, globals, launch_table, launches, loader, patterns, quantities, record_schema,
scan, syntax); authority, viewer, vitrail-devices, brokerctl (device); vitrail-devices,
brokerctl (device_json); authority, session children, viewer, brokerctl (field_types);
authority, session children, vitrail-local, launcher, viewer, host, brokerctl (kinds,
model); session children, viewer, host, brokerctl (places).
"""
