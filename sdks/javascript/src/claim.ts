/**
 * One process a queue: each claims a folder `N` of the directory, the first that nobody has.
 *
 * A claim is a file with the host and process id, touched while its process lives. A process that died leaves its
 * folder, with the events that were not sent, to the next one that starts.
 */
import { linkSync, mkdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { unref } from "./timers";

const TOUCH_MS = 20_000;
const STALE_MS = 90_000;
const MAX_QUEUES = 1_000;
const mine = new Set<string>();

export interface Claim {
  folder: string;
  release(): void;
}

/** @throws Error when the directory cannot be written. */
export function claim(directory: string): Claim {
  for (let number = 0; number < MAX_QUEUES; number++) {
    const folder = join(directory, String(number));
    mkdirSync(folder, { recursive: true });
    const file = join(folder, "owner");
    if (!take(file)) continue;
    mine.add(file);
    const timer = setInterval(() => utimesSync(file, new Date(), new Date()), TOUCH_MS);
    unref(timer);
    const release = (): void => {
      clearInterval(timer);
      mine.delete(file);
      rmSync(file, { force: true });
    };
    return { folder, release };
  }
  throw new Error(`${directory} has ${MAX_QUEUES} queues in use`);
}

function take(file: string): boolean {
  if (mine.has(file)) return false;
  const own = `${file}.${process.pid}`;
  writeFileSync(own, JSON.stringify({ host: hostname(), pid: process.pid }));
  try {
    // A link is made with its content, or not at all.
    for (let attempt = 0; attempt < 2; attempt++) {
      try {
        linkSync(own, file);
        return true;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
        if (!abandoned(file)) return false;
        rmSync(file, { force: true });
      }
    }
    return false;
  } finally {
    rmSync(own, { force: true });
  }
}

function abandoned(file: string): boolean {
  try {
    const { host, pid } = JSON.parse(readFileSync(file, "utf8")) as { host: string; pid: number };
    if (host !== hostname()) return Date.now() - statSync(file).mtimeMs > STALE_MS;
    // Our own id, but not our claim: a process before us had the same (in a container it is always 1).
    if (pid === process.pid) return true;
    process.kill(pid, 0);
    return false;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // ESRCH: no such process. ENOENT: released just now. EPERM: it lives, as another user.
    return code === "ESRCH" || code === "ENOENT" || error instanceof SyntaxError;
  }
}
