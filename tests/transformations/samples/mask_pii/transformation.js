const PRIVATE = new Set(["email", "phone", "birthday", "ssn"]);

function masked(value) {
  if (Array.isArray(value)) return value.map(masked);
  if (value === null || typeof value !== "object") return value;
  const copy = {};
  for (const [name, inner] of Object.entries(value)) {
    if (!PRIVATE.has(name.toLowerCase())) copy[name] = masked(inner);
    else copy[name] = typeof inner === "string" ? "X".repeat(inner.length) : null;
  }
  return copy;
}

export function transformEvent(event) {
  return masked(event);
}
