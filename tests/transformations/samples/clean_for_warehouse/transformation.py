import json
import re


def snake(name):
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()


def transformEvent(event, metadata):
    event["properties"] = {
        snake(name): json.dumps(value, separators=(",", ":")) if isinstance(value, list) else value
        for name, value in event.get("properties", {}).items()
        if value is not None and value != ""
    }
    return event
