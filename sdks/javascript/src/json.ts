/** Any JavaScript value as JSON says it: what JSON cannot say becomes the nearest thing that it can. */

const MAX_DEPTH = 60;

/**
 * A copy of plain values that later changes cannot reach, never throwing.
 *
 * Map becomes an object, Set and typed arrays become arrays, BigInt a number if it is exact, else text; an Error its
 * name and message; an element its tag; a cycle, or what is nested deeper than the server takes, says so in words.
 * What has a `toJSON` (Date, URL) speaks for itself; functions, symbols and undefined go.
 */
export function plain(value: unknown, above: unknown[] = []): unknown {
  if (typeof value === "bigint") {
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : String(value);
  }
  if (typeof value === "function" || typeof value === "symbol") return undefined;
  if (typeof value !== "object" || value === null) return value;
  if (above.includes(value)) return "[circular]";
  if (above.length >= MAX_DEPTH) return "[too deep]";
  const path = [...above, value];
  try {
    if (typeof (value as { toJSON?: unknown }).toJSON === "function") {
      return plain((value as { toJSON(): unknown }).toJSON(), path);
    }
    if (value instanceof Error) return { name: value.name, message: value.message };
    if (typeof (value as { nodeType?: unknown }).nodeType === "number") return `[${(value as { nodeName: unknown }).nodeName}]`;
    if (value instanceof Map) return fields([...value].map(([key, item]) => [String(key), item]), path);
    if (Array.isArray(value) || value instanceof Set || (ArrayBuffer.isView(value) && Symbol.iterator in value)) {
      return Array.from(value as Iterable<unknown>, (item) => plain(item, path) ?? null);
    }
    return fields(Object.entries(value), path);
  } catch (error) {
    // A getter or toJSON that throws costs its own value, not the event.
    return `[${error}]`;
  }
}

function fields(entries: [string, unknown][], path: unknown[]): Record<string, unknown> {
  // `fromEntries` defines: a key `__proto__` stays a key.
  return Object.fromEntries(entries.map(([key, item]) => [key, plain(item, path)] as const).filter(([, item]) => item !== undefined));
}

/** The length of a text in UTF-8, without making its bytes. */
export function utf8Bytes(text: string): number {
  let bytes = text.length;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    // Half a surrogate pair counts 2, so a pair 4; alone it is written as an escape anyway.
    if (code > 0x7f) bytes += code > 0x7ff && (code < 0xd800 || code > 0xdfff) ? 2 : 1;
  }
  return bytes;
}
