from urllib.parse import quote


def transformEvent(event, metadata):
    event["appendPath"] = f"/users/{quote(event['userId'], safe='')}/{event['type']}"
    return event
