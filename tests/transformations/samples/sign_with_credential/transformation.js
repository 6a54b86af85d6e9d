export function transformEvent(event) {
  const token = getCredential("token");
  if (event.event === "Broken") throw new Error("refused: " + event.event);
  event.header = { authorization: `Bearer ${token}`, "x-other": String(getCredential("no such") === undefined) };
  return event;
}
