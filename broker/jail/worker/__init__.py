"""The jail: what runs in the worker of one sandbox."""
