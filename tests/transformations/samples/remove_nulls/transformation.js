export function transformEvent(event) {
  for (const [name, value] of Object.entries(event.properties ?? {})) {
    if (value === null || value === "") delete event.properties[name];
  }
  return event;
}
