def transformBatch(events, metadata):
    sums, kept = {}, []
    for event in events:
        first = sums.setdefault(event["userId"], event) if event.get("event") == "Order" else event
        if first is event:
            kept.append(event)
        else:
            first["properties"]["total"] += event["properties"]["total"]
    return kept
