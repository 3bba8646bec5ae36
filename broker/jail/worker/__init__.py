"""The jail: what runs in the worker of one sandbox, its streams in brokerctl proxy too."""
