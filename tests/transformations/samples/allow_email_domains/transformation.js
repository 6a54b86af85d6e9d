const ALLOWED = new Set(["example.com", "example.org"]);

export function transformEvent(event) {
  const email = event.context?.traits?.email ?? event.traits?.email;
  if (typeof email !== "string") return;
  return ALLOWED.has(email.slice(email.lastIndexOf("@") + 1).toLowerCase()) ? event : undefined;
}
