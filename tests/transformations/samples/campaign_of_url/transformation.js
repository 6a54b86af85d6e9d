export function transformEvent(event) {
  const query = event.context?.page?.url?.split("?")[1]?.split("#")[0];
  if (!query) return event;
  const campaign = {};
  for (const pair of query.split("&")) {
    const [name, value = ""] = pair.split("=").map((part) => decodeURIComponent(part.replace(/\+/g, " ")));
    if (name.startsWith("utm_") && value) campaign[name === "utm_campaign" ? "name" : name.slice(4)] = value;
  }
  if (Object.keys(campaign).length) event.context.campaign = campaign;
  return event;
}
