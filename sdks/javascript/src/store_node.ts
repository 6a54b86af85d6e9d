/** The stores of Node: SQLite where the runtime has it (22.5), else a file that is appended to. */
import { closeSync, existsSync, fdatasync, fsyncSync, openSync, readFileSync, readSync, renameSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { isKey, type Store } from "./store";

const datasync = promisify(fdatasync);

/** What is used of `node:sqlite`. https://nodejs.org/api/sqlite.html */
interface Database {
  exec(sql: string): void;
  prepare(sql: string): { run(...values: unknown[]): unknown; all(...values: unknown[]): unknown[]; get(...values: unknown[]): unknown };
  close(): void;
}

export type OpenDatabase = new (file: string) => Database;

/** `node:sqlite`, or undefined where this Node has none. */
export function sqlite(): OpenDatabase | undefined {
  const builtin = (process as { getBuiltinModule?(name: string): { DatabaseSync: OpenDatabase } | undefined }).getBuiltinModule;
  return builtin?.call(process, "node:sqlite")?.DatabaseSync;
}

/**
 * WAL with `synchronous=NORMAL`: a commit survives the end of the process at once, a power cut from the next
 * checkpoint on. The commit itself waits for no disk, so the caller's thread does not either.
 */
export class SqliteStore implements Store {
  readonly name = "SQLite";
  private _db: Database;

  constructor(DatabaseSync: OpenDatabase, directory: string) {
    this._db = new DatabaseSync(join(directory, "queue.db"));
    this._db.exec(
      "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" +
        "CREATE TABLE IF NOT EXISTS chunks (key TEXT PRIMARY KEY, payload TEXT NOT NULL) WITHOUT ROWID",
    );
  }

  async put(entries: [string, string][]): Promise<void> {
    this._atomically(() => {
      const insert = this._db.prepare("INSERT OR REPLACE INTO chunks VALUES (?, ?)");
      for (const [key, payload] of entries) insert.run(key, payload);
    });
  }

  async keys(): Promise<string[]> {
    return (this._db.prepare("SELECT key FROM chunks ORDER BY key").all() as { key: string }[]).map(({ key }) => key);
  }

  async read(keys: string[]): Promise<Map<string, string>> {
    const select = this._db.prepare("SELECT payload FROM chunks WHERE key = ?");
    const found = new Map<string, string>();
    for (const key of keys) {
      const row = select.get(key) as { payload: string } | undefined;
      if (row) found.set(key, row.payload);
    }
    return found;
  }

  async remove(keys: string[]): Promise<void> {
    if (!keys.length) return;
    this._atomically(() => {
      const drop = this._db.prepare("DELETE FROM chunks WHERE key = ?");
      for (const key of keys) drop.run(key);
    });
  }

  private _atomically(work: () => void): void {
    this._db.exec("BEGIN IMMEDIATE");
    try {
      work();
      this._db.exec("COMMIT");
    } catch (error) {
      this._db.exec("ROLLBACK");
      throw error;
    }
  }

  async close(): Promise<void> {
    this._db.close();
  }
}

const COMPACT_BYTES = 4_000_000;

/**
 * One file: `+KEY BYTES` and a chunk's lines, or `-KEY`. A write is in the operating system's hands when the call's
 * task ends, so it survives the process; `put` resolves when it is on the disk (fdatasync, one for all that came
 * meanwhile). A record that a crash cut off is left out and overwritten. What was removed goes when nothing else
 * is left, or when it is most of the file.
 */
export class FileStore implements Store {
  readonly name = "file";
  private _path: string;
  private _fd: number;
  private _end = 0;
  private _live = 0;
  private _places = new Map<string, { at: number; bytes: number }>();
  private _syncing: Promise<void> | undefined;
  private _dirty = false;

  constructor(directory: string) {
    this._path = join(directory, "queue.log");
    if (!existsSync(this._path)) {
      closeSync(openSync(this._path, "wx"));
      syncFolder(this._path);
    }
    this._fd = openSync(this._path, "r+");
    this._load();
  }

  private _load(): void {
    const data = readFileSync(this._path);
    for (;;) {
      const lineEnd = data.indexOf(10, this._end);
      if (lineEnd < 0) return;
      const head = data.toString("latin1", this._end, lineEnd);
      const [key, size] = head.slice(1).split(" ");
      if (!isKey(key ?? "")) return;
      if (head[0] === "-") {
        this._drop(key!);
        this._end = lineEnd + 1;
        continue;
      }
      const bytes = Number(size);
      const next = lineEnd + 1 + bytes + 1;
      // The record's own last byte says that it is whole.
      if (head[0] !== "+" || !Number.isSafeInteger(bytes) || next > data.length || data[next - 1] !== 10) return;
      this._drop(key!);
      this._places.set(key!, { at: lineEnd + 1, bytes });
      this._live += bytes;
      this._end = next;
    }
  }

  private _drop(key: string): void {
    this._live -= this._places.get(key)?.bytes ?? 0;
    this._places.delete(key);
  }

  private _append(data: Buffer): void {
    let written = 0;
    // If this fails half-way the end stays where it was, and the next write begins there.
    while (written < data.length) written += writeSync(this._fd, data, written, data.length - written, this._end + written);
    this._end += data.length;
    this._dirty = true;
  }

  async put(entries: [string, string][]): Promise<void> {
    const parts: Buffer[] = [];
    const places: [string, { at: number; bytes: number }][] = [];
    let at = this._end;
    for (const [key, payload] of entries) {
      const body = Buffer.from(payload);
      const head = Buffer.from(`+${key} ${body.length}\n`);
      parts.push(head, body, Buffer.from("\n"));
      places.push([key, { at: at + head.length, bytes: body.length }]);
      at += head.length + body.length + 1;
    }
    this._append(Buffer.concat(parts));
    for (const [key, place] of places) {
      this._drop(key);
      this._places.set(key, place);
      this._live += place.bytes;
    }
    await this._sync();
  }

  private async _sync(): Promise<void> {
    // One at a time; whoever comes meanwhile waits for the next.
    while (this._syncing) await this._syncing;
    if (!this._dirty) return;
    this._dirty = false;
    this._syncing = datasync(this._fd).finally(() => (this._syncing = undefined));
    await this._syncing;
  }

  async keys(): Promise<string[]> {
    return [...this._places.keys()].sort();
  }

  async read(keys: string[]): Promise<Map<string, string>> {
    const found = new Map<string, string>();
    for (const key of keys) {
      const place = this._places.get(key);
      if (place) found.set(key, this._text(place));
    }
    return found;
  }

  private _text({ at, bytes }: { at: number; bytes: number }): string {
    const data = Buffer.alloc(bytes);
    let read = 0;
    while (read < bytes) {
      const count = readSync(this._fd, data, read, bytes - read, at + read);
      if (!count) throw new Error(`${this._path} ends before its record`);
      read += count;
    }
    return data.toString();
  }

  async remove(keys: string[]): Promise<void> {
    const known = keys.filter((key) => this._places.has(key));
    if (!known.length) return;
    this._append(Buffer.from(known.map((key) => `-${key}\n`).join("")));
    known.forEach((key) => this._drop(key));
    const dead = this._end - this._live;
    if (!this._places.size || (dead > COMPACT_BYTES && dead > this._live)) await this._compact();
    // Not synced: after a crash they are sent once more, with the same ids.
  }

  private async _compact(): Promise<void> {
    while (this._syncing) await this._syncing;
    const path = `${this._path}.new`;
    const fd = openSync(path, "w+");
    const places = new Map<string, { at: number; bytes: number }>();
    let end = 0;
    for (const [key, place] of this._places) {
      const body = Buffer.from(this._text(place));
      const head = Buffer.from(`+${key} ${body.length}\n`);
      const data = Buffer.concat([head, body, Buffer.from("\n")]);
      for (let written = 0; written < data.length; ) written += writeSync(fd, data, written, data.length - written, end + written);
      places.set(key, { at: end + head.length, bytes: body.length });
      end += data.length;
    }
    fsyncSync(fd);
    renameSync(path, this._path);
    syncFolder(this._path);
    closeSync(this._fd);
    this._fd = fd;
    this._end = end;
    this._places = places;
  }

  async close(): Promise<void> {
    await this._sync();
    closeSync(this._fd);
  }
}

/** A new name is durable when its folder is. */
function syncFolder(path: string): void {
  if (process.platform === "win32") return; // Folders can't be opened there, and need not be.
  const folder = openSync(dirname(path), "r");
  fsyncSync(folder);
  closeSync(folder);
}
