def transformEvent(event, metadata):
    if not event.get("request_ip"):
        return event
    try:
        event["context"] = {**event.get("context", {}), "geo": geolocation(event["request_ip"])}
    except Exception:
        log("no place for", event["request_ip"])
    return event
