export function transformBatch(events) {
  const prices = events.map((event) => event.properties?.price).filter((price) => typeof price === "number");
  if (!prices.length) return events;
  const average = prices.reduce((a, b) => a + b) / prices.length;
  for (const event of events) {
    if (event.type === "track") event.properties = { price: average, ...event.properties };
  }
  return events;
}
