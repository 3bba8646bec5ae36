"""What is done with the user's rights for the viewer, in one child of the starter each.

Processes: session children (bus, cameras, child, chooser, chosen_files, connecting,
desktop_service, errand, files, folder_server, folders, known_hosts, letters, links,
media, ports, printing, programs, read_warrant, screen_frame, secrets, security_key,
services, sound_server, ssh_agent, tools, video); session children, brokerctl
(menu_icons, settings_files).
"""
