/**
 * The calls: identify, track, page, screen, group, alias; ids and traits; consent, sampling, sessions, middleware.
 *
 * A call makes its event, writes it as JSON (so that what the caller changes afterwards changes nothing) and puts it
 * into the queue; it never throws and never waits. What is not taken is reported with the reason.
 */
import { plain, utf8Bytes } from "./json";
import type { Platform } from "./platform";
import { Queue } from "./queue";
import { Sender } from "./sender";
import { unref } from "./timers";
import type {
  Call, CallOptions, Consent, DropReason, EventType, Message, Middleware, Options, Properties, Refused, Report, Stats,
} from "./types";

declare const VERSION: string;

const DAY_MS = 86_400_000;
const SESSION_SAVE_MS = 5_000;
const DEFAULT_FLUSH_TIMEOUT_MS = 30_000;

export const DEFAULTS = {
  batchEvents: 100,
  batchBytes: 500_000,
  flushIntervalMs: 10_000,
  maxQueueEvents: 100_000,
  maxQueueBytes: 50_000_000,
  whenFull: "drop-oldest" as "drop-oldest" | "refuse-newest",
  maxEventBytes: 32_768,
  maxAgeMs: 7 * DAY_MS,
  retryBaseMs: 1_000,
  retryCapMs: 60_000,
  requestTimeoutMs: 30_000,
  pauseMs: 300_000,
  gzip: true,
  sessionTimeoutMs: 30 * 60_000,
};

type Resolved = Options & typeof DEFAULTS;
/** What a stub queues: the method, its arguments, and the time of the call. */
export type StubCall = unknown[] & { t?: number };
type Callback = (messageId?: string) => void;
type Argument = unknown;

export class Analytics {
  /** Counted since the start. */
  readonly stats: Stats = { accepted: 0, delivered: 0, refused: 0, dropped: {}, retries: 0 };
  private _options: Resolved;
  private _queue: Queue;
  private _sender: Sender;
  private _middleware: Middleware[];
  private _consent: Required<Consent>;
  /** What waits for consent: in memory only. */
  private _undecided: Message[] = [];
  private _who: Who = nobody();
  private _session: { id: number; last: number; saved: number } | undefined;
  private _at: number | undefined;
  private _closed = false;
  private _unlisten: () => void;

  /** @internal */
  constructor(
    options: Options,
    private _platform: Platform,
  ) {
    const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
    this._options = { ...DEFAULTS, ...given } as Resolved;
    this._options.host = String(options.host).replace(/\/+$/, "");
    this._middleware = [...(options.middleware ?? [])];
    this._consent = { required: options.consent?.required ?? [], categories: { ...options.consent?.categories } };
    const report = (it: Report): void => this._tell(it);
    const debug = (line: () => string): void => this._explain(line);
    this._sender = new Sender(this._options, _platform, this.stats, report, debug, (refused) => this._queue.setAside(refused));
    this._queue = new Queue(this._options, _platform, this._sender, this.stats, report, debug);
    const allowed = this._allowed();
    if (allowed !== false) {
      if (allowed) this._recall(false);
      if (options.anonymousId) this.setAnonymousId(options.anonymousId);
      if (options.userId) this._who.user_id = options.userId;
      if (allowed) this._queue.start();
    } else void this._queue.purge();
    this._unlisten = _platform.listen({
      wake: () => this._queue.resume(),
      hide: () => {
        this._sender.yield();
        this._queue.wake(true);
      },
      leave: () => this._queue.leave(),
      changed: () => {
        if (!this._allowed()) return;
        this._recall(true);
        // The others may have ended it.
        this._session = undefined;
      },
    });
  }

  // ---- calls

  /** Who the user is from now on. `identify({ plan: "pro" })` adds traits to whoever it is. */
  identify(userId?: string | null | Properties, traits?: Properties, options?: CallOptions, callback?: Callback): string | undefined;
  identify(...args: Argument[]): string | undefined {
    const call = this._whole(args);
    if (call) return this._send("identify", call, args);
    const [id, traits, options] = args;
    const known = typeof id === "object" && id ? undefined : (id as string | undefined);
    if (this._platform.channel === "server") {
      // A server speaks of many people: one call says nothing of the next.
      return this._send("identify", { ...bare(options as CallOptions), userId: known ?? "", traits: bare(traits as Properties) ?? {} }, args);
    }
    const who = this._who;
    if (known != null && String(known) !== who.user_id) {
      // Another person's traits are not this one's.
      if (who.user_id) who.traits = {};
      who.user_id = String(known);
    }
    const given = (typeof id === "object" && id ? id : traits) as Properties | undefined;
    who.traits = { ...who.traits, ...(plain(given) as Properties | undefined) };
    this._remember();
    return this._send("identify", { ...bare((typeof id === "object" && id ? traits : options) as CallOptions), traits: who.traits }, args);
  }

  track(event: string, properties?: Properties, options?: CallOptions, callback?: Callback): string | undefined;
  track(call: Call): string | undefined;
  track(...args: Argument[]): string | undefined {
    const call = this._whole(args);
    if (call) return this._send("track", call, args);
    const [event, properties, options] = args as [string, Properties?, CallOptions?];
    return this._send("track", { ...bare(options), event, properties: bare(properties) ?? {} }, args);
  }

  /** `page()`, `page(name)`, `page(category, name)`, each with properties. */
  page(call: Call): string | undefined;
  page(category?: string, name?: string | Properties, properties?: Properties, options?: CallOptions, callback?: Callback): string | undefined;
  page(...args: Argument[]): string | undefined {
    return this._view("page", args, this._platform.page());
  }

  screen(call: Call): string | undefined;
  screen(category?: string, name?: string | Properties, properties?: Properties, options?: CallOptions, callback?: Callback): string | undefined;
  screen(...args: Argument[]): string | undefined {
    return this._view("screen", args, {});
  }

  group(groupId: string | Call, traits?: Properties, options?: CallOptions, callback?: Callback): string | undefined;
  group(...args: Argument[]): string | undefined {
    const call = this._whole(args);
    if (call) return this._send("group", call, args);
    const [id, traits, options] = args as [string, Properties?, CallOptions?];
    const who = this._who;
    if (id && String(id) !== who.group_id) {
      who.group_traits = {};
      who.group_id = String(id);
    }
    who.group_traits = { ...who.group_traits, ...(plain(bare(traits)) as Properties | undefined) };
    this._remember();
    return this._send("group", { ...bare(options), groupId: who.group_id ?? "", traits: who.group_traits }, args);
  }

  /** `to` and `from` are one person; `from` is whoever it was so far. */
  alias(to: string | Call, from?: string, options?: CallOptions, callback?: Callback): string | undefined;
  alias(...args: Argument[]): string | undefined {
    const call = this._whole(args);
    if (call) return this._send("alias", call, args);
    const [to, from, options] = args as [string, unknown, unknown];
    const previousId = typeof from === "string" ? from : (this._who.user_id ?? this._anonymous() ?? "");
    return this._send("alias", { ...bare((typeof from === "string" ? options : from) as CallOptions), userId: to, previousId }, args);
  }

  // ---- who

  /** Forget the user: a new anonymous id, a new session. What waits is still sent. */
  reset(): void {
    this._forget();
    if (this._allowed()) this._anonymous();
  }

  private _forget(): void {
    this._who = nobody();
    this._session = undefined;
    for (const name of [...Object.keys(NOBODY), "session"]) this._platform.remember(name, undefined);
  }

  setAnonymousId(id: string): void {
    this._who.anonymous_id = String(id);
    this._remember();
  }

  /** As analytics.js has it: `user().id()`, `user().anonymousId()`, `user().traits()`. */
  user(): { id(): string | undefined; anonymousId(): string | undefined; traits(): Properties } {
    return {
      id: () => this._who.user_id,
      anonymousId: () => this._anonymous(),
      traits: () => ({ ...this._who.traits }),
    };
  }

  // ---- hooks, consent

  /** Let a function see every event before it is stored. */
  use(middleware: Middleware): void {
    this._middleware.push(middleware);
  }

  /**
   * What the user decided, by category. Once every required one is true, what waited is collected; when one becomes
   * false, everything that waits is thrown away, on the device too, and nothing more is collected.
   */
  setConsent(categories: Record<string, boolean>): void {
    Object.assign(this._consent.categories, categories);
    const allowed = this._allowed();
    this._explain(() => `consent ${JSON.stringify(this._consent)}`);
    if (allowed) {
      this._recall(false);
      this._queue.start();
      const waited = this._undecided;
      this._undecided = [];
      this._remember();
      for (const event of waited) this._take(event);
    } else if (allowed === false) {
      if (this._undecided.length) this._queue.drop("consent", this._undecided.length);
      this._undecided = [];
      this._forget();
      void this._queue.purge();
    }
  }

  private _allowed(): boolean | undefined {
    const said = this._consent.required.map((name) => this._consent.categories[name]);
    return said.includes(false) ? false : said.includes(undefined) ? undefined : true;
  }

  // ---- delivery

  /** Send now; true once the server has everything taken so far, false after the timeout. Nothing is lost then. */
  flush(timeoutMs = DEFAULT_FLUSH_TIMEOUT_MS): Promise<boolean> {
    return this._queue.flush(timeoutMs);
  }

  /** Flush, then stop. What could not be sent stays where it is, for the next start. */
  async close(timeoutMs = 5_000): Promise<boolean> {
    this._closed = true;
    const sent = await this._queue.flush(timeoutMs);
    this._unlisten();
    await this._queue.close();
    return sent;
  }

  /** Try again at once: after a 401 was repaired, for instance. */
  resume(): void {
    this._queue.resume();
  }

  /** Events that the server will never take, the newest hundred. */
  refused(): Promise<Refused[]> {
    return this._queue.refused();
  }

  ready(callback: () => void): void {
    callback();
  }

  /** @internal A call that a stub has queued, with the time at which it was made. */
  _replay(call: StubCall): void {
    const [method, ...args] = call as [string, ...Argument[]];
    const run = (this as unknown as Record<string, unknown>)[method];
    // The stub of another library's snippet has methods that there are none of here.
    if (typeof run !== "function") return;
    this._at = call.t;
    try {
      run.apply(this, args);
    } finally {
      this._at = undefined;
    }
  }

  // ---- making events

  /** The whole event in one object, as server code has it; undefined for positional arguments. */
  private _whole(args: Argument[]): Call | undefined {
    const first = args[0] as Call | undefined;
    const named = first && typeof first === "object" && ["userId", "anonymousId", "event", "groupId", "previousId", "messageId"];
    return named && named.some((name) => name in first) && typeof args[1] !== "object" ? first : undefined;
  }

  private _view(type: "page" | "screen", args: Argument[], automatic: Properties): string | undefined {
    const call = this._whole(args);
    if (call) return this._send(type, call, args);
    // An empty category or name may be null.
    const words: (string | null)[] = [];
    while (words.length < 2 && words.length < args.length && typeof (args[words.length] ?? "") === "string") {
      words.push(args[words.length] as string | null);
    }
    const [properties, options] = args.slice(words.length) as [Properties?, CallOptions?];
    const name = words.pop();
    const category = words.pop();
    const view: Call = { ...bare(options), properties: { ...automatic, ...bare(properties) } };
    if (name) view.name = view.properties!.name = name;
    if (category) view.category = view.properties!.category = category;
    return this._send(type, view, args);
  }

  private _send(type: EventType, call: Call, args: Argument[]): string | undefined {
    const now = this._at ?? Date.now();
    const callback = args[args.length - 1];
    let messageId: string | undefined;
    try {
      messageId = this._make(type, call, now);
    } catch (error) {
      this._queue.drop("invalid", 1, String(error));
    }
    if (typeof callback === "function") unref(setTimeout(callback as Callback, 0, messageId));
    return messageId;
  }

  private _make(type: EventType, call: Call, now: number): string | undefined {
    const allowed = this._allowed();
    const problem = this._closed ? "closed" : allowed === false ? "consent" : undefined;
    if (problem) return this._drop(problem, type);
    const { context, timestamp, ...fields } = call;
    const event = {
      ...(plain(fields) as Properties),
      type,
      messageId: String(call.messageId || uuid()),
      originalTimestamp: new Date(now).toISOString(),
      context: this._context(now, context),
    } as unknown as Message;
    if (timestamp !== undefined) event.timestamp = new Date(timestamp).toISOString();
    const userId = call.userId ?? this._who.user_id;
    const anonymousId = call.anonymousId ?? (call.userId && this._platform.channel === "server" ? undefined : this._anonymous());
    if (userId != null) event.userId = String(userId);
    if (anonymousId != null) event.anonymousId = String(anonymousId);
    const missing =
      !event.userId && !event.anonymousId
        ? "userId"
        : type === "track" && !event.event
          ? "event"
          : type === "group" && !event.groupId
            ? "groupId"
            : type === "alias" && !event.previousId && "previousId";
    if (missing) return this._drop("invalid", `${type} without ${missing}`);
    if (!this._sampled(event)) return this._drop("sampling", event.event ?? type);
    if (allowed === undefined) {
      const { maxQueueEvents } = this._options;
      if (this._undecided.length >= maxQueueEvents && this._undecided.shift()) this._queue.drop("full", 1);
      this._undecided.push(event);
      return event.messageId;
    }
    return this._take(event);
  }

  private _take(made: Message): string | undefined {
    let event: Message = made;
    const { categories } = this._consent;
    if (Object.keys(categories).length) event.context.consent = { categoryPreferences: { ...categories } };
    // What the automatic context is made of is shared with other events.
    if (this._middleware.length) event = plain(event) as Message;
    for (const middleware of this._middleware) {
      try {
        const next = middleware(event);
        if (next === null) return this._drop("middleware", event.event ?? event.type);
        event = next ?? event;
      } catch (error) {
        return this._drop("middleware", String(error));
      }
    }
    const text = JSON.stringify(this._middleware.length ? plain(event) : event);
    const bytes = utf8Bytes(text);
    if (bytes > this._options.maxEventBytes) {
      return this._drop("too_large", `${event.event ?? event.type}: ${bytes} bytes`);
    }
    if (!this._queue.add(text, bytes)) return this._drop("full", event.event ?? event.type);
    this.stats.accepted++;
    this._explain(() => `${event.type} ${event.event ?? event.name ?? ""} ${event.messageId}, ${bytes} bytes`);
    return event.messageId;
  }

  private _drop(reason: DropReason, detail: string): undefined {
    this._queue.drop(reason, 1, detail);
  }

  private _context(now: number, own: Record<string, unknown> | undefined): Record<string, unknown> {
    const context: Record<string, unknown> = {
      ...this._platform.context(),
      library: { name: "@mainstem/analytics", version: VERSION },
      ...this._options.context,
    };
    this._touch(now, context);
    const given = plain(bare(own)) as Record<string, unknown> | undefined;
    for (const [key, value] of Object.entries(given ?? {})) {
      const known = context[key];
      context[key] = isRecord(known) && isRecord(value) ? { ...known, ...value } : value;
    }
    return context;
  }

  /** The same users every time; the same event whatever happens to it. */
  private _sampled(event: Message): boolean {
    const { rate, events } = this._options.sampling ?? {};
    const own = event.event === undefined ? undefined : events?.[event.event];
    if (own !== undefined) return share(event.messageId) < own;
    return rate === undefined || share(event.anonymousId ?? event.userId ?? "") < rate;
  }

  // ---- sessions

  /** Keep the session alive, or begin one: the id is the time of its start, as RudderStack's SDKs have it. */
  private _touch(now: number, context: Record<string, unknown>): void {
    const timeout = this._options.sessionTimeoutMs;
    if (!timeout || this._platform.channel === "server") return;
    const over = (): boolean => !this._session || Math.abs(now - this._session.last) > timeout;
    if (over()) {
      // Another tab may have kept it alive.
      const [id, last] = (this._platform.recall("session") ?? "").split(".").map(Number);
      if (id && last) this._session = { id, last, saved: last };
    }
    if (over()) {
      this._session = { id: now, last: now, saved: 0 };
      context.sessionStart = true;
    }
    const session = this._session!;
    context.sessionId = session.id;
    session.last = now;
    if (Math.abs(now - session.saved) > SESSION_SAVE_MS && this._allowed()) {
      session.saved = now;
      this._platform.remember("session", `${session.id}.${now}`);
    }
  }

  // ---- ids

  private _anonymous(): string | undefined {
    const who = this._who;
    if (!who.anonymous_id && this._platform.channel !== "server") {
      who.anonymous_id = uuid();
      this._remember();
    }
    return who.anonymous_id;
  }

  /** Take over what is remembered: all of it, or only what was not said on this page (before consent) already. */
  private _recall(all: boolean): void {
    const mine: Record<string, unknown> = all ? { anonymous_id: this._who.anonymous_id } : { ...this._who };
    const who: Record<string, unknown> = nobody();
    for (const [name, none] of Object.entries(NOBODY)) {
      const text = this._platform.recall(name);
      if (none) who[name] = { ...parsed(text), ...(mine[name] as Properties | undefined) };
      // One device, one anonymous id: the remembered one.
      else who[name] = name === "anonymous_id" ? (text ?? mine[name]) : (mine[name] ?? text);
    }
    this._who = who as unknown as Who;
  }

  /** Nothing is written on the device before consent is given. */
  private _remember(): void {
    if (!this._allowed()) return;
    for (const [name, value] of Object.entries(this._who)) {
      this._platform.remember(name, typeof value === "object" ? JSON.stringify(value) : value);
    }
  }

  // ---- telling

  private _tell(report: Report): void {
    this._explain(() => JSON.stringify(report));
    try {
      this._options.onReport?.(report);
    } catch (error) {
      // The application's own mistake, where it looks for its mistakes.
      console.error(error);
    }
  }

  private _explain(line: () => string): void {
    const { debug } = this._options;
    if (!debug) return;
    if (typeof debug === "function") debug(line());
    else console.debug(`Mainstem: ${line()}`);
  }
}

/** Who this page speaks of, under the names by which it is remembered. */
interface Who {
  anonymous_id: string | undefined;
  user_id: string | undefined;
  group_id: string | undefined;
  traits: Properties;
  group_traits: Properties;
}

const NOBODY: Who = { anonymous_id: undefined, user_id: undefined, group_id: undefined, traits: {}, group_traits: {} };

function nobody(): Who & Record<string, unknown> {
  return { ...NOBODY };
}

function bare<T>(value: T): T | undefined {
  return isRecord(value) ? value : undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function parsed(text: string | undefined): Properties | undefined {
  try {
    const value: unknown = text && JSON.parse(text);
    return isRecord(value) ? value : undefined;
  } catch {
    // Somebody else's value under our name.
    return undefined;
  }
}

/** Pages without TLS have no `randomUUID`. https://developer.mozilla.org/docs/Web/API/Crypto/randomUUID */
function uuid(): string {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6]! & 15) | 64;
  bytes[8] = (bytes[8]! & 63) | 128;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** A text's place between 0 and 1: FNV-1a, its bits mixed once more (its own high bits hardly move). */
function share(text: string): number {
  let hash = 2166136261;
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 16777619);
  hash = Math.imul(hash ^ (hash >>> 16), 73244475);
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32;
}
