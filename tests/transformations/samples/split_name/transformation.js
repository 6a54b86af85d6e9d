export function transformEvent(event) {
  const traits = event.traits ?? event.context?.traits;
  if (typeof traits?.name !== "string") return event;
  const [first, ...rest] = traits.name.trim().split(/\s+/);
  traits.firstName = first;
  traits.lastName = rest.join(" ");
  return event;
}
