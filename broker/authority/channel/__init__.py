"""The authority and the processes that it permits: both ends of their channel.

Processes: authority, vitrail-local, launcher, viewer, host (frame_link,
record_messages); authority, viewer (request_messages).
"""
