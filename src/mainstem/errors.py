"""The root of every exception Mainstem raises on purpose.

    MainstemError
    ├── SettingsError          settings.py: a setting is missing or malformed
    ├── workspace errors       workspace/errors.py
    ├── stream errors          stream/base.py
    ├── ledger errors          ledger/base.py
    └── delivery errors        delivery/errors.py

Exceptions are for bugs and lost resources. Trouble with one event is a value (`pipeline.outcome`,
`destinations.base.Delivery`), so that one bad event never costs another.
"""


class MainstemError(Exception):
    """Mainstem failed."""


class SettingsError(MainstemError):
    """A setting is missing or malformed; the text names the setting and where it was read."""
