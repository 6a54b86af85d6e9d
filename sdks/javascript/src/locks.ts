/** One sender at a time, whatever the number of tabs. */

/** Runs the work while nobody else does; not at all if the signal is given before its turn. */
export type Exclusively = (work: () => Promise<unknown>, signal: AbortSignal) => Promise<unknown>;

/** https://developer.mozilla.org/docs/Web/API/Web_Locks_API: a tab that dies lets go at once. */
export function webLock(locks: LockManager, name: string): Exclusively {
  return (work, signal) => locks.request(name, { signal }, work);
}

const LEASE_MS = 15_000;
const POLL_MS = 100;

/**
 * For browsers without Web Locks: a lease in localStorage, renewed while work goes on, free again 15 s after its
 * tab died. localStorage has no compare-and-set, so two tabs that take it in the same moment look again after a
 * pause. If they both send nevertheless, they send the same events with the same ids.
 */
export function lease(storage: Storage, name: string, owner: string): Exclusively {
  const others = (): boolean => {
    const [by, until] = (storage.getItem(name) ?? "").split(" ");
    const left = Number(until) - Date.now();
    // Longer than a lease can be: the clock was set back.
    return by !== owner && left > 0 && left <= LEASE_MS;
  };
  const take = (): void => storage.setItem(name, `${owner} ${Date.now() + LEASE_MS}`);
  const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, POLL_MS * (1 + Math.random())));
  return async (work, signal) => {
    do {
      while (others()) await pause();
      if (signal.aborted) return;
      take();
      await pause();
    } while (others());
    const renewal = setInterval(take, LEASE_MS / 3);
    try {
      await work();
    } finally {
      clearInterval(renewal);
      if (!others()) storage.removeItem(name);
    }
  };
}

/** Within one page or process nothing else is there to agree with. */
export const alone: Exclusively = (work) => work();
