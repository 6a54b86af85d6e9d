const PERCENT = 25;

function bucket(text) {
  let hash = 2166136261;
  for (const byte of unescape(encodeURIComponent(text))) {
    hash = Math.imul(hash ^ byte.charCodeAt(0), 16777619) >>> 0;
  }
  return hash % 100;
}

export function transformEvent(event) {
  const who = event.userId || event.anonymousId;
  if (who && bucket(who) < PERCENT) return event;
}
