export function transformEvent(event) {
  event.appendPath = `/users/${encodeURIComponent(event.userId)}/${event.type}`;
  return event;
}
