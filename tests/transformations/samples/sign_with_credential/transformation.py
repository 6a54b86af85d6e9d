def transformEvent(event, metadata):
    token = getCredential("token")
    if event["event"] == "Broken":
        raise ValueError("refused: " + event["event"])
    other = str(getCredential("no such") is None).lower()
    event["header"] = {"authorization": f"Bearer {token}", "x-other": other}
    return event
