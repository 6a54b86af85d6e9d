"""Metric names and structured logs: one module each, used by every room, importing none of them."""
