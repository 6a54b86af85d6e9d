export function transformBatch(events, metadata) {
  const sums = {};
  return events.filter((event) => {
    if (event.event !== "Order") return true;
    const first = (sums[event.userId] ??= event);
    if (first === event) return true;
    first.properties.total += event.properties.total;
    return false;
  });
}
