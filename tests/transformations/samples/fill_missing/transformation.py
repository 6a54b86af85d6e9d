def transformBatch(events, metadata):
    prices = [event.get("properties", {}).get("price") for event in events]
    prices = [price for price in prices if isinstance(price, (int, float))]
    if not prices:
        return events
    average = sum(prices) / len(prices)
    for event in events:
        if event["type"] == "track":
            event["properties"] = {"price": average, **event.get("properties", {})}
    return events
