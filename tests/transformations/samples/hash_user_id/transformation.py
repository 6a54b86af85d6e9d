import hashlib


def transformEvent(event, metadata):
    event["userId"] = hashlib.sha256(event["userId"].encode()).hexdigest()
    return event
