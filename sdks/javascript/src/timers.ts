/** In Node a timer must not keep a finished program alive; in browsers timers are numbers. */
export function unref(timer: unknown): void {
  (timer as { unref?: () => void }).unref?.();
}
