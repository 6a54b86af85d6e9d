export async function transformEvent(event) {
  if (!event.request_ip) return event;
  try {
    event.context = { ...event.context, geo: await geolocation(event.request_ip) };
  } catch (error) {
    log("no place for", event.request_ip);
  }
  return event;
}
