export function transformBatch(events) {
  const users = new Map();
  for (const event of events) {
    const { messageId, type, userId, ...rest } = event;
    if (!users.has(userId)) users.set(userId, { messageId, type: "track", userId, event: "Batch", properties: { batch: [] } });
    users.get(userId).properties.batch.push({ type, ...rest });
  }
  return [...users.values()];
}
