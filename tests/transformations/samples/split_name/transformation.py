def transformEvent(event, metadata):
    traits = event.get("traits") or event.get("context", {}).get("traits") or {}
    if isinstance(traits.get("name"), str):
        first, *rest = traits["name"].split()
        traits["firstName"] = first
        traits["lastName"] = " ".join(rest)
    return event
