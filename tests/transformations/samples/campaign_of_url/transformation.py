from urllib.parse import parse_qsl, urlsplit


def transformEvent(event, metadata):
    url = event.get("context", {}).get("page", {}).get("url", "")
    campaign = {
        "name" if name == "utm_campaign" else name[4:]: value
        for name, value in parse_qsl(urlsplit(url).query)
        if name.startswith("utm_")
    }
    if campaign:
        event["context"]["campaign"] = campaign
    return event
