def transformEvent(event, metadata):
    plan = event.get("properties", {}).get("plan", "free")
    event["header"] = {"x-plan": plan, "x-user": event["userId"]}
    return event
