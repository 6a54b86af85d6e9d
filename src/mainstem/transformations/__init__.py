"""Transformations: what a company changes in its events between routing and mapping, after the app has shipped."""
