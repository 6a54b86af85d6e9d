"""Out: ordered sends to destinations, with retries, throttling, breaker, parking and dead letters."""
