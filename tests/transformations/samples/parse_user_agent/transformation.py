from agents import browser_of


def transformEvent(event, metadata):
    user_agent = event.get("context", {}).get("userAgent")
    if user_agent:
        event["context"]["browser"] = browser_of(user_agent)
    return event
