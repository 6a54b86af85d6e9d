export function transformEvent(event) {
  event.header = { "x-plan": event.properties?.plan ?? "free", "x-user": event.userId };
  return event;
}
