export function transformEvent(event) {
  if (event.type !== "track" || event.event !== "Signed Up") return event;
  const { messageId, userId, properties } = event;
  return [{ messageId, type: "identify", userId, traits: { ...properties } }, event];
}
