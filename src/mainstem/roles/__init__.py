"""Processes: each module reads settings, wires the rooms together and runs one role. Nothing imports it but `cli`."""
