const snake = (name) => name.replace(/([a-z0-9])([A-Z])/g, "$1_$2").toLowerCase();

export function transformEvent(event) {
  const clean = {};
  for (const [name, value] of Object.entries(event.properties ?? {})) {
    if (value === null || value === "") continue;
    clean[snake(name)] = Array.isArray(value) ? JSON.stringify(value) : value;
  }
  event.properties = clean;
  return event;
}
