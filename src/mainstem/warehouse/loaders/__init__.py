"""One module an engine, each a `loader.Loader`; `sql` is what those that speak SQL share."""
