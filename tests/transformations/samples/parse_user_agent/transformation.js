import { browserOf } from "agents";

export function transformEvent(event) {
  const userAgent = event.context?.userAgent;
  if (userAgent) event.context.browser = browserOf(userAgent);
  return event;
}
