function transform(events) {
  return events.filter((event) => event.type !== "page").map((event) => ({ ...event, legacy: true }));
}
