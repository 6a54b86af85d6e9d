ALLOWED = {"example.com", "example.org"}


def transformEvent(event, metadata):
    traits = (event.get("context") or {}).get("traits") or event.get("traits") or {}
    email = traits.get("email")
    if isinstance(email, str) and email.rpartition("@")[2].lower() in ALLOWED:
        return event
