def transformEvent(event, metadata):
    if event.get("properties"):
        event["properties"] = {
            name: value for name, value in event["properties"].items() if value is not None and value != ""
        }
    return event
