"""The user's directories for sandboxes, and settings and icons of the user's desktop.

Processes: session children (folder_errands, folder_server); session children, brokerctl
(menu_icons, settings_files).
"""
