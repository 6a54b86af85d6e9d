"""Tables of events: what rows events become, and loading them exactly once."""
