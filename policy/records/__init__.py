"""Records of sandboxes: format, reading, schema.

Processes: authority, brokerctl (build, desktop_tables, folder, launch_table, launches,
loader, record_schema); authority, viewer, vitrail-devices, brokerctl (device); vitrail-
devices, brokerctl (device_json); authority, viewer, brokerctl (document, field_types,
globals, patterns, quantities, scan, syntax); authority, viewer, host, brokerctl (kinds,
model).
"""
