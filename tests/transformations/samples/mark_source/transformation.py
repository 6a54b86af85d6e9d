def transformEvent(event, metadata):
    meta = metadata(event)
    if meta.get("sourceId") == "internal":
        return None
    event["context"] = {
        **event.get("context", {}),
        "source": {"id": meta["sourceId"], "name": meta["sourceName"]},
    }
    return event
