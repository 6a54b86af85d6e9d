const LAST = /\.\d{1,3}$/;

export function transformEvent(event) {
  if (typeof event.request_ip === "string") event.request_ip = event.request_ip.replace(LAST, ".0");
  if (event.context && typeof event.context.ip === "string") event.context.ip = event.context.ip.replace(LAST, ".0");
  return event;
}
