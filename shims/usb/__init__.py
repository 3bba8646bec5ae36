"""USB devices and security keys in a guest: two programs, which need root there.

``shims/bundle.py`` makes one file of each, ``vitrail_devices.py`` and
``vitrail_security_key.py``.  Standard library only, Python 3.9.  Nothing on the other
side trusts them: they run in the sandbox.
"""
