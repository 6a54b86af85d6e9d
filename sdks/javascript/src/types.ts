/**
 * What callers see: events as the Segment spec has them, options, reports.
 *
 * https://segment.com/docs/connections/spec/common/
 */

export type EventType = "identify" | "track" | "page" | "screen" | "group" | "alias";

export type Properties = Record<string, unknown>;

/** An event as it goes to the server. */
export interface Message {
  type: EventType;
  messageId: string;
  /** The device's clock, RFC 3339. The server corrects it by `sentAt`. */
  originalTimestamp: string;
  /** When it happened, if the caller said so: taken as it is. */
  timestamp?: string;
  anonymousId?: string;
  userId?: string;
  groupId?: string;
  previousId?: string;
  event?: string;
  name?: string;
  category?: string;
  properties?: Properties;
  traits?: Properties;
  context: Record<string, unknown>;
  integrations?: Record<string, unknown>;
}

/** What a caller may say about one event, beside its properties or traits. */
export interface CallOptions {
  /** Merged over the automatic context, field by field. */
  context?: Record<string, unknown>;
  integrations?: Record<string, unknown>;
  /** When it happened; now if absent. */
  timestamp?: Date | string | number;
  /** Deduplicates; made if absent. */
  messageId?: string;
  userId?: string;
  anonymousId?: string;
}

/** All of an event in one object, as server code has it: `track({ userId, event, properties })`. */
export interface Call extends CallOptions {
  event?: string;
  name?: string;
  category?: string;
  groupId?: string;
  previousId?: string;
  properties?: Properties;
  traits?: Properties;
}

/** Sees every event before it is stored: may change it, return another, or `null` to drop it. */
export type Middleware = (event: Message) => Message | null | void;

export type DropReason =
  /** The queue was full: the oldest, or this one (`whenFull`). */
  | "full"
  /** Older than `maxAgeMs`, after an attempt to send it failed. */
  | "age"
  /** Larger than `maxEventBytes`. */
  | "too_large"
  /** Not in the sample. */
  | "sampling"
  /** Consent was refused. */
  | "consent"
  /** A middleware returned null, or threw: what it should have taken out is not sent. */
  | "middleware"
  /** No id, or no name, or not an event. */
  | "invalid"
  /** After `close`. */
  | "closed";

/** What happened that an application may want to know. */
export type Report =
  | { type: "dropped"; reason: DropReason; count: number; detail?: string }
  /** The server will never take this event: it was set aside (`refused()`), the others went on. */
  | { type: "refused"; event: Message; status: number; code: string; message: string }
  /** Nothing is sent: the write key is wrong, the source disabled or this origin not allowed. */
  | { type: "paused"; status: number; message: string }
  | { type: "resumed" }
  /** An attempt failed. `status` is 0 where there was no answer. */
  | { type: "retry"; status: number; attempt: number; waitMs: number }
  | { type: "delivered"; count: number }
  /** A better place to keep events failed, the next one is used. */
  | { type: "storage"; from: string; to: string; message: string };

/** Counted since the start of this page or process. */
export interface Stats {
  /** Calls that became an event of the queue. */
  accepted: number;
  /** Acknowledged by the server. */
  delivered: number;
  /** Set aside: the server will never take them. */
  refused: number;
  dropped: Partial<Record<DropReason, number>>;
  /** Requests that failed and were made again. */
  retries: number;
}

/** Set aside: an event the server refused for good. */
export interface Refused {
  event: Message;
  status: number;
  code: string;
  message: string;
}

export interface Consent {
  /** Categories without which nothing is collected. Empty: collecting needs none. */
  required?: string[];
  /** What the user said so far. A required category that is absent is undecided: events wait in memory. */
  categories?: Record<string, boolean>;
}

export interface Sampling {
  /** Share of users whose events are collected, 0 to 1; the same users every time. */
  rate?: number;
  /** Share of track events by name, 0 to 1. */
  events?: Record<string, number>;
}

export interface Options {
  writeKey: string;
  /** The Mainstem: `https://events.example.com`. */
  host: string;
  /** A batch is sent when so many have gathered, and holds no more. */
  batchEvents?: number;
  /** The largest batch, in bytes before compression. */
  batchBytes?: number;
  /** Events wait no longer than this for a batch to fill. */
  flushIntervalMs?: number;
  /** The most events that wait, over all tabs. */
  maxQueueEvents?: number;
  maxQueueBytes?: number;
  /** Which go when the queue is full. */
  whenFull?: "drop-oldest" | "refuse-newest";
  maxEventBytes?: number;
  /** Events older than this are given up, once an attempt to send them has failed. */
  maxAgeMs?: number;
  /** Waits between attempts are random between 0 and `retryBaseMs * 2 ** attempt`, at most `retryCapMs`. */
  retryBaseMs?: number;
  retryCapMs?: number;
  requestTimeoutMs?: number;
  /** While paused (401, 403, 404) one attempt is made so often. */
  pauseMs?: number;
  gzip?: boolean;
  consent?: Consent;
  sampling?: Sampling;
  middleware?: Middleware[];
  /** A pause after which a new session begins; 0 = no sessions. */
  sessionTimeoutMs?: number;
  /** Ids to begin with, instead of remembered ones. */
  anonymousId?: string;
  userId?: string;
  /** Added to every event's context. */
  context?: Record<string, unknown>;
  /** Queues of other names are sent independently. */
  queue?: string;
  /** Explains each step on the console, or to a function. */
  debug?: boolean | ((line: string) => void);
  onReport?: (report: Report) => void;
}

export interface BrowserOptions extends Options {
  /** Where ids are remembered. Cookies (with a copy in localStorage) are shared by subdomains. */
  ids?: "cookie" | "storage" | "memory";
  /** The cookies' domain: `auto` takes the widest that the browser accepts, "" this host only. */
  cookieDomain?: string;
  /** Days that cookies live. */
  cookieDays?: number;
  /** Page events by themselves: once at the start, or also when a single-page application changes the address. */
  pages?: "off" | "load" | "spa";
  /** High-entropy client hints to ask the browser for: `["platformVersion", "model"]`. */
  clientHints?: string[];
}

export interface NodeOptions extends Options {
  /** Where the queue lies; without it events wait in memory and are lost with the process. */
  directory?: string;
  /** `auto`: SQLite where this Node has it, else a file. */
  store?: "auto" | "sqlite" | "file";
}
