"""The agent of a guest without Python: a program in C, without libc.

``agent.c`` and its headers are linked as one static program of some 30 KB when Vitrail
is built; ``brokerctl guest install --minimal`` writes its installer.
"""
