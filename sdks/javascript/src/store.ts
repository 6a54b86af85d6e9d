/**
 * Where events wait: the smallest interface that the queue can live with, and several stores seen as one.
 *
 * Events lie in chunks: what one write took, up to a batch, one JSON text a line. A chunk's key says all that the
 * ring and the sender need to know without reading it: `SEQ.WRITER.EVENTS.BYTES`. Keys sort by SEQ: microseconds
 * of the device's clock, made to rise within a writer whatever the clock does.
 */

export interface Store {
  readonly name: string;
  /** Resolves when the entries would survive the end of the page or process; rejects when nothing of them is kept. */
  put(entries: [key: string, payload: string][]): Promise<void>;
  /** All keys. */
  keys(): Promise<string[]>;
  /** The chunks under these keys, as far as they are there. */
  read(keys: string[]): Promise<Map<string, string>>;
  remove(keys: string[]): Promise<void>;
  close(): Promise<void>;
}

/** The writer of what was set aside: never sent, evicted first. */
export const ASIDE = "!";

const SEQ_DIGITS = 16;

export function makeKey(seq: number, writer: string, events: number, bytes: number): string {
  return `${String(seq).padStart(SEQ_DIGITS, "0")}.${writer}.${events}.${bytes}`;
}

export function parseKey(key: string): { seq: number; writer: string; events: number; bytes: number } {
  const [seq, writer, events, bytes] = key.split(".");
  return { seq: Number(seq), writer: writer ?? "", events: Number(events), bytes: Number(bytes) };
}

export function isKey(text: string): boolean {
  return /^\d{16}\.[^.]+\.\d+\.\d+$/.test(text);
}

/** The last resort: gone with the page. */
export class MemoryStore implements Store {
  readonly name = "memory";
  private _chunks = new Map<string, string>();

  async put(entries: [string, string][]): Promise<void> {
    for (const [key, payload] of entries) this._chunks.set(key, payload);
  }

  async keys(): Promise<string[]> {
    return [...this._chunks.keys()];
  }

  async read(keys: string[]): Promise<Map<string, string>> {
    return new Map([...this._chunks].filter(([key]) => keys.includes(key)));
  }

  async remove(keys: string[]): Promise<void> {
    for (const key of keys) this._chunks.delete(key);
  }

  async close(): Promise<void> {}
}

/** Not open yet: the next store takes the first events meanwhile, and nobody need be told. */
export class NotOpen extends Error {}

/** Several stores, best first: a write goes to the first that takes it, a read sees all. */
export class Tiers implements Omit<Store, "name"> {
  constructor(
    private _tiers: Store[],
    private _onFallback: (from: string, to: string, error: unknown) => void,
  ) {}

  async put(entries: [string, string][]): Promise<void> {
    let error: unknown;
    let from = "";
    for (const tier of this._tiers) {
      if (from && !(error instanceof NotOpen)) this._onFallback(from, tier.name, error);
      try {
        return await tier.put(entries);
      } catch (problem) {
        error = problem;
        from = tier.name;
      }
    }
    throw error;
  }

  async keys(): Promise<string[]> {
    // A store that cannot be listed has nothing that could be sent; writes say what is wrong with it.
    const found = await Promise.all(this._tiers.map((tier) => tier.keys().catch(() => [])));
    return found.flat().sort();
  }

  async read(keys: string[]): Promise<Map<string, string>> {
    const found = await Promise.all(this._tiers.map((tier) => tier.read(keys).catch(() => [] as [string, string][])));
    return new Map(found.flatMap((chunks) => [...chunks]));
  }

  async remove(keys: string[]): Promise<void> {
    await Promise.all(this._tiers.map((tier) => tier.remove(keys).catch(() => {})));
  }

  async close(): Promise<void> {
    await Promise.all(this._tiers.map((tier) => tier.close()));
  }
}
