def transformBatch(events, metadata):
    users = {}
    for event in events:
        rest = {name: value for name, value in event.items() if name not in ("messageId", "userId")}
        first = {
            "messageId": event["messageId"],
            "type": "track",
            "userId": event["userId"],
            "event": "Batch",
        }
        users.setdefault(event["userId"], {**first, "properties": {"batch": []}})["properties"][
            "batch"
        ].append(rest)
    return list(users.values())
