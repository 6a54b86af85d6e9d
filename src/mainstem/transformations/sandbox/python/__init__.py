"""User code in Python: RudderStack's contract, run by CPython inside the jail. See `host` for the process."""
