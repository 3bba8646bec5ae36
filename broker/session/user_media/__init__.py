"""The user's sound, cameras, screens and security keys.

Processes: session children (cameras, key_device, key_permits, media_errands,
screen_frame, video); session children, brokerctl (sound_server).
"""
