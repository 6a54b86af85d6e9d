"""What was settled: positions, the books, parked events and dead letters, committed together."""
