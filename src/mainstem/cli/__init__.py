"""The `mainstem` command: one file per command group."""
