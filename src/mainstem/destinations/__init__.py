"""One small module per destination, and `catalog`, which knows them all. Destinations never import one another."""
