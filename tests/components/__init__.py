"""The real servers and SDKs that the tests run against, installed and started by the tests.

One module per component. Each offers `install` (what is on this machine already, else fetched, once)
and, for servers, a context manager that starts a real process on a free loopback port and surely
stops it. Every version is pinned under `tests/components/pins/` (Maven, PyPI) and in
`tests/sdks/node/package-lock.json` (npm). `python -m tests.components` installs everything.
"""
