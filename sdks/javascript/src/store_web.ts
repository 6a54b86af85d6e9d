/** The stores of a browser: IndexedDB, and localStorage where or while there is none. */
import { isKey, NotOpen, type Store } from "./store";

const CHUNKS = "chunks";
/** What localStorage takes while IndexedDB opens: the events of a page that dies at once. */
const JOURNAL_CHARS = 64_000;
/** Some browsers never answer (private windows, a profile on a broken disk). */
const OPEN_TIMEOUT_MS = 5_000;

/**
 * One database a queue, one record a chunk.
 *
 * A write is handed over with `commit()` in the task of the call itself: from then on it is the browser's, and is
 * kept even if this page's process is killed in the next moment.
 * https://developer.mozilla.org/docs/Web/API/IDBTransaction/commit
 */
export class IndexedDbStore implements Store {
  readonly name = "IndexedDB";
  private _db: IDBDatabase | undefined;
  private _opening!: Promise<unknown>;
  private _journalled = 0;
  private _closed = false;

  constructor(private _database: string) {
    this._open();
  }

  private _open(): void {
    this._opening = new Promise<void>((resolve, reject) => {
      const request = indexedDB.open(this._database, 1);
      setTimeout(() => reject(new Error("no answer")), OPEN_TIMEOUT_MS);
      request.onupgradeneeded = () => request.result.createObjectStore(CHUNKS);
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const db = request.result;
        if (this._closed) return db.close();
        this._db = db;
        // The user cleared the site's data, the browser gave the database up, or another version wants it.
        db.onversionchange = db.onclose = () => {
          db.close();
          this._db = undefined;
          this._open();
        };
        resolve();
      };
    });
    this._opening.catch(() => {});
  }

  /** At once if the database is open: then the browser has the request when this returns. */
  private _run<T>(mode: IDBTransactionMode, work: (chunks: IDBObjectStore) => IDBRequest<T> | void): Promise<T> {
    if (!this._db) return this._opening.then(() => this._run(mode, work));
    const transaction = this._db.transaction(CHUNKS, mode);
    const request = work(transaction.objectStore(CHUNKS));
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(request?.result as T);
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
      transaction.commit?.();
    });
  }

  async put(entries: [string, string][]): Promise<void> {
    if (!this._db) {
      for (const [, payload] of entries) this._journalled += payload.length;
      if (this._journalled <= JOURNAL_CHARS) throw new NotOpen();
    }
    return this._run<void>("readwrite", (chunks) => {
      for (const [key, payload] of entries) chunks.put(payload, key);
    });
  }

  async keys(): Promise<string[]> {
    return this._run("readonly", (chunks) => chunks.getAllKeys() as IDBRequest<string[]>);
  }

  async read(keys: string[]): Promise<Map<string, string>> {
    const requests: IDBRequest<string | undefined>[] = [];
    await this._run<void>("readonly", (chunks) => {
      for (const key of keys) requests.push(chunks.get(key));
    });
    const found = new Map<string, string>();
    requests.forEach((request, at) => request.result && found.set(keys[at]!, request.result));
    return found;
  }

  async remove(keys: string[]): Promise<void> {
    return this._run<void>("readwrite", (chunks) => {
      for (const key of keys) chunks.delete(key);
    });
  }

  async close(): Promise<void> {
    this._closed = true;
    this._db?.close();
  }
}

/** Synchronous, about 5 MB for the whole site: small queues, old browsers, the first moments of a page. */
export class LocalStorageStore implements Store {
  readonly name = "localStorage";

  constructor(
    private _storage: Storage,
    private _prefix: string,
  ) {}

  async put(entries: [string, string][]): Promise<void> {
    try {
      for (const [key, payload] of entries) this._storage.setItem(this._prefix + key, payload);
    } catch (error) {
      await this.remove(entries.map(([key]) => key));
      throw error;
    }
  }

  async keys(): Promise<string[]> {
    const keys: string[] = [];
    for (let at = 0; at < this._storage.length; at++) {
      const name = this._storage.key(at)!;
      const key = name.slice(this._prefix.length);
      if (name.startsWith(this._prefix) && isKey(key)) keys.push(key);
    }
    return keys;
  }

  async read(keys: string[]): Promise<Map<string, string>> {
    const found = new Map<string, string>();
    for (const key of keys) {
      const payload = this._storage.getItem(this._prefix + key);
      if (payload) found.set(key, payload);
    }
    return found;
  }

  async remove(keys: string[]): Promise<void> {
    for (const key of keys) this._storage.removeItem(this._prefix + key);
  }

  async close(): Promise<void> {}
}
