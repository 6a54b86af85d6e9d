PRIVATE = {"email", "phone", "birthday", "ssn"}


def masked(value):
    if isinstance(value, list):
        return [masked(item) for item in value]
    if not isinstance(value, dict):
        return value
    copy = {}
    for name, inner in value.items():
        if name.lower() not in PRIVATE:
            copy[name] = masked(inner)
        else:
            copy[name] = "X" * len(inner) if isinstance(inner, str) else None
    return copy


def transformEvent(event, metadata):
    return masked(event)
