"""The event: its spec, its envelope on the way in, its stored form, its canonical form. Imports nothing of ours."""
