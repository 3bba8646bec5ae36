"""The jail: the process in which all bytes of one sandbox are parsed."""
