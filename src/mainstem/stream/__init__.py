"""The durable log between gateway and workers: protocol in `base`, back ends beside it."""
