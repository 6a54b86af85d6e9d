"""JavaScript in V8: the rewriting of modules, what surrounds the code inside V8, and the process that hosts it."""
