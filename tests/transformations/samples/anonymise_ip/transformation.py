import re

LAST = re.compile(r"\.\d{1,3}$")


def transformEvent(event, metadata):
    if isinstance(event.get("request_ip"), str):
        event["request_ip"] = LAST.sub(".0", event["request_ip"])
    context = event.get("context")
    if isinstance(context, dict) and isinstance(context.get("ip"), str):
        context["ip"] = LAST.sub(".0", context["ip"])
    return event
