"""What is configured: one frozen snapshot of sources, destinations and connections, and where it comes from."""
