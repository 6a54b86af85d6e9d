/** What the core needs of the place where it runs. */
import type { Exclusively } from "./locks";
import type { Store } from "./store";

export interface Platform {
  /** `web`, `server`. */
  channel: string;
  /** The stores of a queue, best first; memory is added behind them. */
  stores(): Store[];
  exclusively: Exclusively;
  /** Others (tabs, the page before this one) write into the same queue. */
  shared: boolean;
  /** Bodies from this size on are compressed: below it a preflight would cost more than is won. */
  gzipFromBytes: number;
  /** What is remembered between pages: ids, traits, the session. */
  recall(name: string): string | undefined;
  remember(name: string, value: string | undefined): void;
  /** Automatic context of an event that happens now. */
  context(): Record<string, unknown>;
  /** Properties of a page event. */
  page(): Record<string, unknown>;
  /** In the background: timers are slow, and the end may come without notice. */
  hidden(): boolean;
  online(): boolean;
  /** Hands a body over for sending after the page's end; false = not taken. */
  beacon(url: string, body: string): boolean;
  /** Calls back on what happens around us; returns how to stop that. */
  listen(hooks: Hooks): () => void;
}

export interface Hooks {
  /** The network is back, or the page is seen again. */
  wake(): void;
  /** The page is no longer seen: send while there is time. */
  hide(): void;
  /** The page ends, or is frozen into the back/forward cache. */
  leave(): void;
  /** Another tab changed what is remembered, or may have. */
  changed(): void;
}
