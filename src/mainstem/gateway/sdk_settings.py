"""The documents SDKs fetch before they send: who they are, where to send, what is on.

* analytics-next, Segment mobile: `GET /v1/projects/{writeKey}/settings`. `metrics.sampleRate` is 0: without it
  analytics-next posts its own metrics, in one configuration to Segment's servers. Only `Segment.io` is listed:
  for any other integration the SDK would fetch code from this host.
* RudderStack, all SDKs: `GET /sourceConfig`. The key set is what the strictest (Kotlin, Gson) needs: an absent
  `enabled` means off to it. No destinations: every delivery happens on the server.
"""

import re
from typing import Any, Final
from urllib.parse import urlsplit

from mainstem.workspace.model import Source

_SAFE_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_UPDATED_AT: Final = "1970-01-01T00:00:00.000Z"


def is_host(text: str) -> bool:
    """Return whether a Host header may be told to an SDK as an address."""
    return _SAFE_HOST.fullmatch(text) is not None


def segment_settings(write_key: str, base_url: str) -> dict[str, Any]:
    """Return the settings of a Segment SDK that is to send to `base_url`."""
    url = urlsplit(base_url)
    return {
        "integrations": {
            "Segment.io": {
                "apiKey": write_key,
                "apiHost": f"{url.netloc}{url.path.rstrip('/')}/v1",
                "protocol": url.scheme,
                "unbundledIntegrations": [],
                "addBundledMetadata": True,
            }
        },
        "plan": {
            "track": {"__default": {"enabled": True, "integrations": {}}},
            "identify": {"__default": {"enabled": True}},
            "group": {"__default": {"enabled": True}},
        },
        "edgeFunction": {},
        "metrics": {"sampleRate": 0},
    }


def source_config(source: Source, write_key: str, workspace_id: str, base_url: str) -> dict[str, Any]:
    """Return the `sourceConfig` of a RudderStack SDK."""
    return {
        "source": {
            "id": source.id,
            "name": source.name,
            "writeKey": write_key,
            "enabled": source.enabled,
            "workspaceId": workspace_id,
            "createdAt": _UPDATED_AT,
            "updatedAt": _UPDATED_AT,
            "deleted": False,
            "config": {"statsCollection": {"errors": {"enabled": False}, "metrics": {"enabled": False}}},
            "connections": [],
            "destinations": [],
            "dataplanes": {},
            "sourceDefinition": {"name": source.type, "displayName": source.type},
        },
        "dataPlaneUrl": base_url,
        "updatedAt": _UPDATED_AT,
    }
