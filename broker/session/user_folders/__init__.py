"""Directories of the user's for sandboxes, and what the viewer has written or read there.

Processes: session children (folder_errands, folder_server, letters); session children,
brokerctl (menu_icons, settings_files).
"""
