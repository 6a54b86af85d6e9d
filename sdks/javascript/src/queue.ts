/**
 * The queue: events gather in memory for the rest of the caller's task, are stored behind it, and are sent.
 *
 * * **Stored first.** The events of a task are handed to the store in a microtask, that is before the browser or Node
 *   does anything else; a flood follows in slices of 1 MB, as the store takes them.
 * * **Bounded.** `maxQueueEvents` and `maxQueueBytes` hold for what is stored and what still gathers. The store is
 *   counted exactly before anything is evicted, so nothing is lost below the bound.
 * * **One batch in flight**, by a lock over all tabs; it starts with the oldest event and is a run without gaps, and
 *   so is what `leave` hands to the browser at the end of a page. So whatever of it arrives, and however often, the
 *   server sees each user's events first in their order, and recognises the others by their messageIds.
 */
import { utf8Bytes as utf8 } from "./json";
import type { Platform } from "./platform";
import { Sender, type Outcome } from "./sender";
import { ASIDE, makeKey, MemoryStore, parseKey, Tiers } from "./store";
import { unref } from "./timers";
import type { DropReason, Refused, Report, Stats } from "./types";

/** What one write takes: more would hold up the caller's thread. */
const SLICE_EVENTS = 2_000;
const SLICE_BYTES = 1_000_000;
const MAX_CHUNK_BYTES = 450_000;
/** Browsers let go of 64 KiB in flight behind a page's end, for all of its requests together. */
const LEAVE_BYTES = 60_000;
const MAX_ASIDE = 100;

export interface QueueLimits {
  batchEvents: number;
  batchBytes: number;
  flushIntervalMs: number;
  maxQueueEvents: number;
  maxQueueBytes: number;
  whenFull: "drop-oldest" | "refuse-newest";
  maxAgeMs: number;
}

export class Queue {
  private _opened: Tiers | undefined;
  private _events: string[] = [];
  private _sizes: number[] = [];
  private _head = 0;
  private _bytes = 0;
  /** What lies in the store: as last counted, plus what was written since. */
  private _storedEvents = 0;
  private _storedBytes = 0;
  private _writing: Promise<void> | undefined;
  /** Handed to the store and not yet confirmed. */
  private _puts = new Set<Promise<void>>();
  private _putBytes = 0;
  private _sending: Promise<void> | undefined;
  private _all = false;
  private _timer: ReturnType<typeof setTimeout> | undefined;
  private _poll: ReturnType<typeof setInterval> | undefined;
  private _seq = 0;
  private _writer = `w${Math.random().toString(36).slice(2, 10)}`;
  /** Chunks of this page that are not known to be settled, oldest first; without their text when they are too many. */
  private _own = new Map<string, string | undefined>();
  private _ownBytes = 0;
  private _foreign = true;
  private _inFlight: { keys: Set<string>; events: string[] } | undefined;
  /** Given when the page ends, or is frozen; a page that comes back has another. */
  private _left = new AbortController();
  private _closed = false;
  private _started = false;

  constructor(
    private _limits: QueueLimits,
    private _platform: Platform,
    private _sender: Sender,
    private _stats: Stats,
    private _report: (report: Report) => void,
    private _debug: (line: () => string) => void,
  ) {
  }

  /** Opened when something is to be stored or sent, and not before consent. */
  private get _store(): Tiers {
    return (this._opened ??= new Tiers([...this._platform.stores(), new MemoryStore()], (from, to, error) =>
      this._report({ type: "storage", from, to, message: String(error) }),
    ));
  }

  /** Begin: with what an earlier page or process left. Throws where the folder that was given is of no use. */
  start(): void {
    if (this._started) return;
    this._started = !!this._store;
    if (this._platform.shared) {
      this._poll = setInterval(() => this._platform.hidden() || this._look(true), this._limits.flushIntervalMs);
    }
    void this._look(false);
  }

  /** Send what an earlier page or process left; later on, what should have been sent by a tab that died. */
  private async _look(overdue: boolean): Promise<void> {
    const keys = await this._count();
    const due = this._now() - (overdue ? this._limits.flushIntervalMs * 1000 : 0);
    if (keys.some((key) => parseKey(key).seq <= due)) this.wake(true);
  }

  /** Take an event: its JSON and its size in UTF-8. False: the queue is full and the newest are refused. */
  add(event: string, bytes: number): boolean {
    const { maxQueueEvents, maxQueueBytes, whenFull } = this._limits;
    if (whenFull === "refuse-newest" && this._over(1, bytes)) return false;
    this._events.push(event);
    this._sizes.push(bytes);
    this._bytes += bytes;
    let dropped = 0;
    // What gathers alone is over the bound: all that is stored is older, and goes when this is written.
    while (this._waiting > maxQueueEvents || this._bytes > maxQueueBytes) {
      this._bytes -= this._sizes[this._head]!;
      this._events[this._head++] = "";
      dropped++;
    }
    if (dropped) this.drop("full", dropped);
    this._writing ??= this._soon();
    return true;
  }

  /** Whether so much more would be over the bound. */
  private _over(events: number, bytes = 0): boolean {
    const { maxQueueEvents, maxQueueBytes } = this._limits;
    return (
      this._storedEvents + this._waiting + events > maxQueueEvents ||
      this._storedBytes + this._bytes + bytes > maxQueueBytes
    );
  }

  private get _waiting(): number {
    return this._events.length - this._head;
  }

  drop(reason: DropReason, count: number, detail?: string): void {
    this._stats.dropped[reason] = (this._stats.dropped[reason] ?? 0) + count;
    this._report({ type: "dropped", reason, count, ...(detail && { detail }) });
  }

  private async _soon(): Promise<void> {
    await Promise.resolve();
    try {
      while (this._waiting) {
        // Only a flood waits for the store: what one task gathered must not, its page may be killed next.
        if (this._putBytes > SLICE_BYTES) await Promise.race(this._puts);
        // Again and again, for more may have come meanwhile.
        while (this._over(0) && (await this._evict()));
        this._write();
      }
    } finally {
      this._writing = undefined;
    }
  }

  private async _written(): Promise<void> {
    await this._writing;
    await Promise.all(this._puts);
  }

  private _startTimer(): void {
    this._timer ??= setTimeout(() => {
      this._timer = undefined;
      this.wake(true);
    }, this._limits.flushIntervalMs);
    unref(this._timer);
  }

  private _now(): number {
    return Math.floor(Date.now() * 1000);
  }

  /** Hand the next slice to the store. */
  private _write(): void {
    const { batchEvents } = this._limits;
    const entries: [string, string][] = [];
    let events = 0;
    let bytes = 0;
    while (this._waiting && events < SLICE_EVENTS && bytes < SLICE_BYTES) {
      const start = this._head;
      let size = 0;
      while (this._waiting && this._head - start < batchEvents) {
        const next = this._sizes[this._head]!;
        if (this._head > start && size + next > MAX_CHUNK_BYTES) break;
        size += next;
        this._head++;
      }
      const payload = this._events.slice(start, this._head).join("\n");
      // Rises within this writer even if the clock goes back.
      this._seq = Math.max(this._seq + 1, this._now());
      const key = makeKey(this._seq, this._writer, this._head - start, size);
      entries.push([key, payload]);
      const mirrored = this._ownBytes + size <= LEAVE_BYTES;
      this._ownBytes += size;
      this._own.set(key, mirrored ? payload : undefined);
      events += this._head - start;
      bytes += size;
    }
    this._bytes -= bytes;
    if (!this._waiting) {
      this._events = [];
      this._sizes = [];
      this._head = 0;
    } else if (this._head > SLICE_EVENTS * 4) {
      this._events = this._events.slice(this._head);
      this._sizes = this._sizes.slice(this._head);
      this._head = 0;
    }
    this._storedEvents += events;
    this._storedBytes += bytes;
    this._putBytes += bytes;
    const put: Promise<void> = this._store.put(entries).then(() => {
      this._puts.delete(put);
      this._putBytes -= bytes;
      this._debug(() => `stored ${events} events`);
      if (this._storedEvents >= batchEvents) this.wake(false);
      this._startTimer();
    });
    this._puts.add(put);
  }

  /** Count what is stored, and forget what others have settled. */
  private async _count(): Promise<string[]> {
    const keys = await this._store.keys();
    const there = new Set(keys);
    this._storedEvents = this._storedBytes = 0;
    this._foreign = false;
    const live: string[] = [];
    for (const key of keys) {
      const { seq, writer, events, bytes } = parseKey(key);
      this._storedEvents += events;
      this._storedBytes += bytes;
      if (writer === ASIDE) continue;
      live.push(key);
      // A clock that was set back must not put new events before old ones.
      this._seq = Math.max(this._seq, seq);
      if (writer !== this._writer && !this._inFlight?.keys.has(key)) this._foreign = true;
    }
    if (!this._puts.size) for (const key of this._own.keys()) if (!there.has(key)) this._forget(key);
    return live;
  }

  private _forget(key: string): void {
    if (this._own.delete(key)) this._ownBytes -= parseKey(key).bytes;
  }

  /** Evict the oldest, to the event, until what gathers has room. What is in flight stays. */
  private async _evict(): Promise<boolean> {
    const { maxQueueEvents, maxQueueBytes } = this._limits;
    await this._count();
    let events = this._storedEvents + this._waiting - maxQueueEvents;
    let bytes = this._storedBytes + this._bytes - maxQueueBytes;
    const keys = (await this._store.keys()).filter((key) => !this._inFlight?.keys.has(key));
    keys.sort((a, b) => Number(parseKey(b).writer === ASIDE) - Number(parseKey(a).writer === ASIDE));
    const gone: string[] = [];
    let dropped = 0;
    for (const key of keys) {
      if (events <= 0 && bytes <= 0) break;
      const chunk = parseKey(key);
      gone.push(key);
      if (chunk.writer === ASIDE || chunk.events <= events || chunk.bytes <= bytes) {
        events -= chunk.events;
        bytes -= chunk.bytes;
        if (chunk.writer !== ASIDE) dropped += chunk.events;
        continue;
      }
      const lines = ((await this._store.read([key])).get(key) ?? "").split("\n");
      let kept = 0;
      while (kept < lines.length && (events > 0 || bytes > 0)) {
        events--;
        bytes -= utf8(lines[kept++]!);
      }
      dropped += kept;
      const rest = lines.slice(kept);
      if (rest.length) {
        const size = rest.reduce((sum, line) => sum + utf8(line), 0);
        await this._store.put([[makeKey(chunk.seq, chunk.writer, rest.length, size), rest.join("\n")]]);
      }
    }
    await this._store.remove(gone);
    gone.forEach((key) => this._forget(key));
    if (dropped) this.drop("full", dropped);
    await this._count();
    return gone.length > 0;
  }

  /** Send: all there is, or full batches only. */
  wake(all: boolean): void {
    const { signal } = this._left;
    if (this._closed || signal.aborted || !this._started) return;
    this._all ||= all;
    let work: Promise<boolean> | undefined;
    this._sending ??= this._platform
      .exclusively(
        // A page that is frozen with the lock would hold up the others, and be thrown out of the cache for that.
        () => Promise.race([(work = this._send(signal)), new Promise((resolve) => (signal.onabort = resolve))]),
        signal,
      )
      .then(() => work)
      .catch((error: unknown) => this._debug(() => `failed: ${error}`))
      .then((done) => {
        this._sending = undefined;
        if (this._closed) return;
        // What came while the lock was let go.
        if ((done || signal.aborted) && (this._all || this._storedEvents >= this._limits.batchEvents)) this.wake(false);
        else if (this._storedEvents) this._startTimer();
      });
  }

  /** Send until nothing is due; false if it has to stop before. */
  private async _send(signal: AbortSignal): Promise<boolean> {
    const { batchEvents, batchBytes } = this._limits;
    while (!this._closed && !signal.aborted) {
      const keys = await this._count();
      const waiting = countOf(keys);
      if (!waiting) this._all = false;
      if (!this._all && waiting < batchEvents) return true;
      const taken: string[] = [];
      let events = 0;
      let bytes = 0;
      for (const key of keys) {
        const chunk = parseKey(key);
        if (taken.length && (events + chunk.events > batchEvents || bytes + chunk.bytes > batchBytes)) break;
        taken.push(key);
        events += chunk.events;
        bytes += chunk.bytes;
      }
      const chunks = await this._store.read(taken);
      const list = taken.flatMap((key) => chunks.get(key)?.split("\n") ?? []);
      if (signal.aborted) break;
      this._inFlight = { keys: new Set(taken), events: list };
      this._foreign = keys.some((key) => !this._own.has(key) && !this._inFlight!.keys.has(key));
      let outcome: Outcome;
      try {
        const oldest = parseKey(taken[0]!).seq / 1000;
        outcome = list.length ? await this._sender.deliver(list, oldest + this._limits.maxAgeMs) : "settled";
        if (outcome === "expired") {
          const old = taken.filter((key) => parseKey(key).seq / 1000 + this._limits.maxAgeMs < Date.now());
          this.drop("age", countOf(old));
          await this._remove(old);
        } else if (outcome === "settled") await this._remove(taken);
      } finally {
        this._inFlight = undefined;
      }
      if (outcome === "given up") return false;
      if (taken.length === keys.length) this._all = false;
    }
    return false;
  }

  private async _remove(keys: string[]): Promise<void> {
    await this._store.remove(keys);
    keys.forEach((key) => this._forget(key));
  }

  /** Keep an event that the server will never take, to be looked at. */
  async setAside(refused: Refused): Promise<void> {
    const payload = JSON.stringify(refused);
    this._seq = Math.max(this._seq + 1, this._now());
    await this._store.put([[makeKey(this._seq, ASIDE, 1, utf8(payload)), payload]]);
    const keys = await this._aside();
    await this._store.remove(keys.slice(0, -MAX_ASIDE));
  }

  private async _aside(): Promise<string[]> {
    return (await this._store.keys()).filter((key) => parseKey(key).writer === ASIDE);
  }

  /** What was set aside, the newest hundred, oldest first. */
  async refused(): Promise<Refused[]> {
    const keys = await this._aside();
    const found = await this._store.read(keys);
    return keys.flatMap((key) => (found.has(key) ? [JSON.parse(found.get(key)!) as Refused] : []));
  }

  /** Wait until what was taken so far is settled; false if that took too long. */
  async flush(timeoutMs: number): Promise<boolean> {
    const until = Date.now() + timeoutMs;
    await this._written();
    const mark = makeKey(Math.max(this._seq, this._now()) + 1, "", 0, 0);
    const due = async (): Promise<boolean> =>
      (await this._store.keys()).some((key) => key < mark && parseKey(key).writer !== ASIDE);
    while (await due()) {
      const left = until - Date.now();
      if (left <= 0 || this._closed) return false;
      this.wake(true);
      await Promise.race([this._sending, new Promise((resolve) => setTimeout(resolve, Math.min(left, 1_000)))]);
    }
    return true;
  }

  /**
   * The page ends: hand over the oldest events, as many as the browser takes, without waiting for an answer. Nothing of
   * this page is under way behind it: it may be frozen now, and the next page goes on.
   */
  leave(): void {
    this._left.abort();
    if (!this._started) return;
    const { _inFlight, _sender, _platform } = this;
    let room = LEAVE_BYTES - _sender.keptAliveBytes;
    const events: string[] = [];
    const take = (list: string[]): boolean =>
      list.every((event) => {
        room -= utf8(event) + 1;
        return room >= 0 && events.push(event);
      });
    let more = take(_inFlight?.events ?? []);
    // Events of others that wait before ours would be overtaken: then the next sender has them all.
    if (!this._foreign) {
      for (const [key, payload] of this._own) {
        if (_inFlight?.keys.has(key)) continue;
        if (more && payload) more = take(payload.split("\n"));
        else break;
      }
    }
    if (events.length) {
      const taken = _platform.beacon(_sender.beaconUrl, _sender.body(events));
      this._debug(() => `leaving ${events.length} events: ${taken}`);
    }
    _sender.abort(!_sender.keptAliveBytes);
  }

  /** The page is back. */
  resume(): void {
    if (this._left.signal.aborted) this._left = new AbortController();
    this._sender.resume();
    if (this._started) void this._look(false);
  }

  /** Throw away everything that waits, in all tabs. */
  async purge(): Promise<void> {
    let count = this._waiting;
    this._events = [];
    this._sizes = [];
    this._head = this._bytes = 0;
    this._sender.abort();
    await this._written();
    const keys = await this._store.keys();
    count += countOf(keys);
    await this._remove(keys);
    if (count) this.drop("consent", count);
    await this._count();
  }

  async close(): Promise<void> {
    await this._written();
    this._closed = true;
    clearTimeout(this._timer);
    clearInterval(this._poll);
    this._sender.abort();
    await this._sending;
    await this._opened?.close();
  }
}

function countOf(keys: string[]): number {
  return keys.reduce((sum, key) => sum + parseKey(key).events, 0);
}
