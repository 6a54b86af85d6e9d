/**
 * The script that the gateway serves at `/sdk/mainstem.js`.
 *
 * It finds the stub of the snippet (`window.analytics`, or the name in `data-name`), or its own tag's `data-write-key`,
 * starts with their options, and makes the calls that were queued. In a service worker (`importScripts`) and without
 * either, it only offers `Mainstem.Analytics`.
 */
import type { StubCall } from "./analytics";
import { Analytics } from "./browser";
import type { BrowserOptions } from "./types";

type Stub = StubCall[] & { _writeKey?: string; _loadOptions?: Partial<BrowserOptions> };

const scope = globalThis as unknown as Record<string, unknown>;
const tag = typeof document === "undefined" ? null : (document.currentScript as HTMLScriptElement | null);
scope.Mainstem = { Analytics };

const name = tag?.dataset.name ?? "analytics";
const stub = scope[name] as Stub | undefined;
// Quoted: the snippet sets them, so they keep their names.
const writeKey = stub?.["_writeKey"] ?? tag?.dataset.writeKey;
if (writeKey && (!stub || Array.isArray(stub))) {
  const options = { host: tag ? new URL(tag.src).origin : location.origin, ...stub?.["_loadOptions"], writeKey };
  const analytics = new Analytics(options);
  scope[name] = analytics;
  for (const call of stub ?? []) analytics._replay(call);
}
