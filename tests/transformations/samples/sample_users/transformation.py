PERCENT = 25


def bucket(text):
    value = 2166136261
    for byte in text.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value % 100


def transformEvent(event, metadata):
    who = event.get("userId") or event.get("anonymousId")
    if who and bucket(who) < PERCENT:
        return event
