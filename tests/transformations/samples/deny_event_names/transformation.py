DENIED = {"game_load_time", "heartbeat"}


def transformEvent(event, metadata):
    return None if event.get("event") in DENIED else event
