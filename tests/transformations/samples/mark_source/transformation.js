export function transformEvent(event, metadata) {
  const meta = metadata(event);
  if (meta.sourceId === "internal") return;
  event.context = { ...event.context, source: { id: meta.sourceId, name: meta.sourceName } };
  return event;
}
