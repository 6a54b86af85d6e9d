const DENIED = ["game_load_time", "heartbeat"];

export function transformEvent(event) {
  return DENIED.includes(event.event) ? null : event;
}
