"""Web frameworks: the request that is served lends its context to the events within it."""
