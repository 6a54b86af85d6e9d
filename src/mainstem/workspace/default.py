"""The workspace of a first start: one source with a key of its own, one archive; comments say what next."""

import secrets
import string
from pathlib import Path
from typing import Final

import msgspec

from mainstem.workspace.last_good import write_private

_KEY_ALPHABET: Final = string.ascii_lowercase + string.digits
_KEY_LENGTH: Final = 25


class DefaultWorkspace(msgspec.Struct, frozen=True):
    """What was made."""

    path: Path
    write_key: str

    def __repr__(self) -> str:
        return f"DefaultWorkspace(path={self.path!r})"


def new_write_key() -> str:
    """Return a fresh write key: `c` and 24 random letters and digits (124 bits).

    The form of a cuid, because Jitsu's SDK accepts no other key without a colon.
    """
    return "c" + "".join(secrets.choice(_KEY_ALPHABET) for _ in range(_KEY_LENGTH - 1))


def create_default_workspace(path: Path) -> DefaultWorkspace | None:
    """Write the default workspace file, unless there is a file already (or another process is first).

    Returns None then: read the file. The file is readable by its owner only.

    Raises:
        OSError: the place can't be written.
    """
    if path.exists():
        return None
    key = new_write_key()
    text = _TEMPLATE.replace("@KEY@", key)
    try:
        write_private(path, text.encode(), replace=False)
    except FileExistsError:
        return None
    return DefaultWorkspace(path, key)


_TEMPLATE: Final = """\
# The workspace: who may send events, where they go, and by which rules.
# Saved changes are picked up within two seconds; a broken file is refused, with the reasons in the log, and
# the previous one stays in use. Check before saving: mainstem workspace check FILE
# Every field: docs/reference/workspace.md

workspace:
  id: default
  name: My workspace

sources:
  # An SDK is initialised with this write key and http://localhost:8080 as its host (data plane URL).
  - id: my-source
    name: My source
    write_key: @KEY@
    type: http

destinations:
  # Everything that was received, as compressed JSON lines by source, date and hour.
  - id: archive
    name: Archive
    type: archive
    config:
      url: archive # a folder in the data directory; or s3://bucket, gs://bucket, az://container

  # Next: send events somewhere. Remove the # signs, and add `hook` to the connection below.
  # Secrets come from the environment: ${HOOK_TOKEN}
  # - id: hook
  #   name: My webhook
  #   type: webhook
  #   config:
  #     webhookUrl: https://example.com/hook
  #     webhookMethod: POST
  #     headers:
  #       - {from: Authorization, to: "Bearer ${HOOK_TOKEN}"}

connections:
  - from: my-source
    to: [archive]
    # filters:
    #   - name: only-orders
    #     types: [track]
    #     allow: ["Order *"]
    #     where: event.properties.total > 0
"""
