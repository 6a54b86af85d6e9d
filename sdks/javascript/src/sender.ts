/**
 * Delivers one batch after another: attempts, waits, what answers mean.
 *
 * | answer | what follows |
 * |---|---|
 * | 2xx with `success` | settled; events that the answer lists as rejected are set aside |
 * | none, another 2xx, 408, 425, 429, 5xx | again, with the same messageIds, after `Retry-After` or a random pause |
 * | 401, 403, 404 | about the key, the origin, the source: nothing is sent until that is repaired |
 * | any other | split until the refused event is found; it is set aside, the others go on |
 *
 * Requests are "simple" ones (text/plain, the key in the body), so that browsers ask for no preflight; only bodies
 * that are worth compressing have a header that needs one. https://fetch.spec.whatwg.org/#cors-safelisted-request-header
 */
import { utf8Bytes } from "./json";
import type { Platform } from "./platform";
import { unref } from "./timers";
import type { Message, Refused, Report, Stats } from "./types";

export type Outcome = "settled" | "expired" | "given up";

export interface SenderOptions {
  writeKey: string;
  host: string;
  batchEvents: number;
  batchBytes: number;
  retryBaseMs: number;
  retryCapMs: number;
  requestTimeoutMs: number;
  pauseMs: number;
  gzip: boolean;
}

interface Answer {
  status: number;
  retryAfter: string | null;
  /** `success`: a Mainstem says so. A 200 of somebody else (a captive portal, a redirect) acknowledges nothing. */
  document: { success?: boolean; code?: string; message?: string; rejected?: { index: number; code: string; message: string }[] };
}

const KEEPALIVE_BYTES = 60_000;
const MAX_RETRY_AFTER_MS = 24 * 3600_000;

export class Sender {
  /** Bytes in flight that would outlive the page. */
  keptAliveBytes = 0;
  private _attempt = 0;
  private _notBefore = 0;
  private _aborted = 0;
  private _paused = false;
  private _plainNext = false;
  private _wake: ((goOn: boolean) => void) | undefined;
  private _request: AbortController | undefined;
  /** Set aside already, though their batch could not be settled yet. */
  private _known = new Set<string>();

  constructor(
    private _options: SenderOptions,
    private _platform: Platform,
    private _stats: Stats,
    private _report: (report: Report) => void,
    private _debug: (line: () => string) => void,
    private _setAside: (refused: Refused) => Promise<void>,
  ) {}

  get beaconUrl(): string {
    return `${this._options.host}/beacon/v1/batch?writeKey=${encodeURIComponent(this._options.writeKey)}`;
  }

  body(events: string[]): string {
    const sentAt = new Date().toISOString();
    return `{"batch":[${events.join(",")}],"sentAt":"${sentAt}","writeKey":${JSON.stringify(this._options.writeKey)}}`;
  }

  /** Go on now: the network is back, the page is seen, the pause is over. */
  resume(): void {
    this._notBefore = 0;
    this._wake?.(true);
  }

  /** Give the batch up that is being delivered, and its request, unless that may go on by itself. */
  abort(cut = true): void {
    this._aborted++;
    if (cut) this._request?.abort();
    this._wake?.(false);
  }

  /** The page is hidden and others may go on: waiting here would hold them up. */
  yield(): void {
    this._wake?.(false);
  }

  /** Deliver events, however long that takes; `expires` is when failing ends it. */
  async deliver(events: string[], expires: number): Promise<Outcome> {
    const { batchEvents, batchBytes } = this._options;
    const wanted = events.filter((event) => !this._known.has(event));
    const until = this._aborted;
    for (let at = 0; at < wanted.length; ) {
      const part: string[] = [];
      let bytes = 0;
      while (at < wanted.length && part.length < batchEvents) {
        bytes += wanted[at]!.length + 1;
        if (part.length && bytes > batchBytes) break;
        part.push(wanted[at++]!);
      }
      const outcome = await this._settle(part, expires, until);
      if (outcome !== "settled") return outcome;
    }
    this._known.clear();
    return "settled";
  }

  private async _settle(events: string[], expires: number, until: number): Promise<Outcome> {
    for (;;) {
      const wait = this._notBefore - Date.now();
      if (wait > 0 && !(await this._pause(wait))) return "given up";
      if (this._aborted !== until) return "given up";
      if (!this._platform.online()) {
        this._debug(() => "offline");
        this._later(this._options.retryCapMs);
        continue;
      }
      const answer = await this._post(events);
      if (this._aborted !== until) return "given up";
      const { status, document } = answer;
      const { code = "refused", message = "", rejected = [] } = document;
      if (document.success || rejected.length === events.length) {
        this._attempt = 0;
        if (this._paused) this._report({ type: "resumed" });
        this._paused = false;
        for (const one of rejected) await this._refuse(events[one.index], status, one.code, one.message);
        const count = events.length - rejected.length;
        this._stats.delivered += count;
        this._report({ type: "delivered", count });
        return "settled";
      }
      if (status === 401 || status === 403 || status === 404) {
        this._paused = true;
        this._report({ type: "paused", status, message });
        // Loudly: nothing arrives, and nobody would see it otherwise.
        console.error(`Mainstem: events are kept, not sent: ${status} ${message}`);
        this._later(this._options.pauseMs);
        continue;
      }
      if (status < 400 || status === 408 || status === 425 || status === 429 || status >= 500) {
        if (Date.now() > expires) return "expired";
        this._attempt++;
        this._stats.retries++;
        const asked = retryAfterMs(answer.retryAfter);
        const { retryBaseMs, retryCapMs } = this._options;
        const random = Math.random() * Math.min(retryCapMs, retryBaseMs * 2 ** this._attempt);
        // Not before the server wants it, and not all clients in the same moment.
        const waitMs = Math.round(asked === undefined ? random : asked + Math.min(random, asked / 10));
        this._report({ type: "retry", status, attempt: this._attempt, waitMs });
        this._later(waitMs);
        continue;
      }
      if (events.length === 1) {
        await this._refuse(events[0], status, code, message);
        return "settled";
      }
      this._debug(() => `${status}: splitting ${events.length} events`);
      const middle = events.length >> 1;
      const first = await this._settle(events.slice(0, middle), expires, until);
      return first === "settled" ? this._settle(events.slice(middle), expires, until) : first;
    }
  }

  private _later(ms: number): void {
    this._notBefore = Date.now() + ms;
  }

  /** Wait; false: somebody else may go on, or it has ended. */
  private async _pause(ms: number): Promise<boolean> {
    if (this._platform.shared && this._platform.hidden()) return false;
    const goOn = await new Promise<boolean>((resolve) => {
      this._wake = resolve;
      unref(setTimeout(resolve, ms, true));
    });
    this._wake = undefined;
    return goOn;
  }

  private async _refuse(event: string | undefined, status: number, code: string, message: string): Promise<void> {
    if (!event || this._known.has(event)) return;
    this._known.add(event);
    const refused: Refused = { event: JSON.parse(event) as Message, status, code, message };
    this._stats.refused++;
    await this._setAside(refused);
    this._report({ type: "refused", ...refused });
  }

  private async _post(events: string[]): Promise<Answer> {
    const text = this.body(events);
    const controller = (this._request = new AbortController());
    const timer = setTimeout(() => controller.abort(), this._options.requestTimeoutMs);
    const headers: Record<string, string> = { "content-type": "text/plain;charset=UTF-8" };
    let body: BodyInit = text;
    const size = utf8Bytes(text);
    const keepalive = this._platform.hidden() && size < KEEPALIVE_BYTES;
    try {
      if (this._options.gzip && !keepalive && !this._plainNext && size >= this._platform.gzipFromBytes) {
        const packed = await gzip(text);
        if (packed) {
          body = packed;
          headers["content-encoding"] = "gzip";
        }
      }
      this._debug(() => `sending ${events.length} events, ${size} bytes`);
      if (keepalive) this.keptAliveBytes = size;
      const response = await fetch(`${this._options.host}/v1/batch`, {
        method: "POST",
        headers,
        body,
        keepalive,
        credentials: "omit",
        signal: controller.signal,
      });
      const words = await response.text();
      let document: Answer["document"];
      try {
        const parsed = JSON.parse(words) as Answer["document"] | null;
        document = { ...parsed, success: response.ok && parsed?.success === true };
      } catch {
        // A proxy's page, not our server's answer.
        document = { message: words.slice(0, 200) };
      }
      this._plainNext = false;
      return { status: response.status, retryAfter: response.headers.get("retry-after"), document };
    } catch (error) {
      // Perhaps something between refuses the preflight of a compressed body: once without.
      this._plainNext = body !== text;
      this._debug(() => `no answer: ${error}`);
      return { status: 0, retryAfter: null, document: {} };
    } finally {
      clearTimeout(timer);
      this.keptAliveBytes = 0;
      this._request = undefined;
    }
  }
}

/** https://www.rfc-editor.org/rfc/rfc9110#field.retry-after: seconds or a date. */
export function retryAfterMs(value: string | null): number | undefined {
  if (!value) return undefined;
  const seconds = Number(value);
  const ms = isNaN(seconds) ? Date.parse(value) - Date.now() : seconds * 1000;
  return isNaN(ms) ? undefined : Math.min(Math.max(ms, 0), MAX_RETRY_AFTER_MS);
}

async function gzip(text: string): Promise<Blob | undefined> {
  if (typeof CompressionStream === "undefined") return undefined;
  const stream = new Blob([text]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Response(stream).blob();
}
