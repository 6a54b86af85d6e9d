// What the tests share: the built SDK, a server that answers by script, a queue in a folder of its own.
import { mkdtempSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";

const built = process.env.TEST_SDK_BUILD;
export const { Analytics } = await import(join(built, "node.mjs"));
export const internals = await import(join(built, "internals.mjs"));
export const STORE = process.env.TEST_SDK_STORE;

/** Answers with `script(request, number)`: a status, [status, headers, body], or "cut"; 200 by default. */
export async function serve(script = () => 200) {
  const requests = [];
  const server = createServer((request, response) => {
    const pieces = [];
    request.on("data", (piece) => pieces.push(piece));
    request.on("end", async () => {
      const raw = Buffer.concat(pieces);
      const text = (request.headers["content-encoding"] === "gzip" ? gunzipSync(raw) : raw).toString();
      const it = { url: request.url, headers: request.headers, body: JSON.parse(text), size: text.length, at: Date.now() };
      const [status, headers = {}, body] = [await script(it, requests.length)].flat();
      it.status = status;
      requests.push(it);
      if (status === "cut") return request.socket.destroy();
      response.writeHead(status, headers);
      const usual = status === 200 ? { success: true, ok: true } : { code: "told_so", message: "as the test wants" };
      response.end(typeof body === "string" ? body : JSON.stringify(body ?? usual));
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    requests,
    host: `http://127.0.0.1:${server.address().port}`,
    /** Events that were answered 200, in the order of arrival, each messageId once: what a server would keep. */
    kept() {
      const seen = new Map();
      for (const { status, body } of requests) {
        if (status === 200) for (const event of body.batch) if (!seen.has(event.messageId)) seen.set(event.messageId, event);
      }
      return [...seen.values()];
    },
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

export function folder() {
  return mkdtempSync(join(tmpdir(), "sdk-"));
}

/** Options for quick tests; what is reported lands in `reports`. */
export function quick(host, more = {}) {
  const reports = [];
  const options = {
    writeKey: "unit", host, flushIntervalMs: 50, retryBaseMs: 5, retryCapMs: 20, pauseMs: 60_000, store: STORE,
    onReport: (report) => reports.push(report), ...more,
  };
  return { options, reports };
}

export async function until(condition, what = "the condition holds") {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export const track = (analytics, n, more = {}) =>
  analytics.track({ userId: `u${n % 3}`, event: "Step", properties: { n }, messageId: `m-${n}`, ...more });

export const numbers = (events) => events.map((event) => event.properties.n);
export const range = (from, to) => Array.from({ length: to - from }, (_, at) => from + at);
