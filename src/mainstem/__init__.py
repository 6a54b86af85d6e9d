"""Customer data infrastructure a company runs itself."""
