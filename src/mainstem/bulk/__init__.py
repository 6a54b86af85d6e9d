"""Batches of the log, exactly once into whatever takes batches: files (`lake`), tables (`warehouse`)."""
