def transformEvent(event, metadata):
    if event["type"] != "track" or event["event"] != "Signed Up":
        return event
    identify = {"messageId": event["messageId"], "type": "identify", "userId": event["userId"]}
    return [{**identify, "traits": dict(event["properties"])}, event]
