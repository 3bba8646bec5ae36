"""The authority and the processes that it permits: both ends of their channel."""
