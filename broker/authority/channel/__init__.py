"""The authority and the processes that it permits: both ends of their channel.

Processes: authority, vitrail-local before its fork, viewer, host (frame_link,
record_messages); authority, viewer (request_messages).
"""
