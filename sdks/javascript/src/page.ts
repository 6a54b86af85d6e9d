/** The browser: pages and service workers. */
import { alone, lease, webLock } from "./locks";
import type { Hooks, Platform } from "./platform";
import type { Store } from "./store";
import { IndexedDbStore, LocalStorageStore } from "./store_web";
import type { BrowserOptions } from "./types";

/** From here on a compressed body wins more than its preflight (once in two hours) costs. */
const GZIP_FROM_BYTES = 16_384;
const COOKIE_PREFIX = "mainstem_";
const PROBE = "mainstem_probe";
const DAY_S = 86_400;

type Hints = { getHighEntropyValues?(names: string[]): Promise<object>; toJSON?(): object };

export class Page implements Platform {
  readonly channel = "web";
  readonly shared = true;
  readonly gzipFromBytes = GZIP_FROM_BYTES;
  exclusively = alone;
  private _prefix: string;
  private _storage: Storage | undefined;
  /** Where ids are remembered, with the cookies or without. */
  private _shelf: Storage | undefined;
  private _domain: string | undefined;
  private _memory = new Map<string, string>();
  private _constant: Record<string, unknown>;
  private _seen: { url: string; title: string; page: object; campaign: object | undefined } | undefined;
  private _referrer: string;
  private _ids: "cookie" | "storage" | "memory";
  private _document = typeof document === "undefined" ? undefined : document;

  constructor(private _options: BrowserOptions) {
    this._prefix = `mainstem.${_options.writeKey}.${_options.queue ?? ""}.`;
    this._ids = _options.ids ?? "cookie";
    this._storage = storage();
    this._shelf = this._ids === "memory" ? undefined : this._storage;
    this._referrer = this._document?.referrer ?? "";
    const locks = (navigator as { locks?: LockManager }).locks;
    if (locks) this.exclusively = webLock(locks, this._prefix);
    else if (this._storage) this.exclusively = lease(this._storage, `${this._prefix}lease`, String(Math.random()));
    const hints = (navigator as { userAgentData?: Hints }).userAgentData;
    if (_options.clientHints) {
      hints?.getHighEntropyValues?.(_options.clientHints).then(
        (found) => (this._constant.userAgentData = found),
        () => {}, // The browser's policy says no: then it is the low-entropy ones.
      );
    }
    this._constant = {
      userAgent: navigator.userAgent,
      locale: navigator.language,
      timezone: Intl.DateTimeFormat().resolvedOptions().timeZone,
      userAgentData: hints?.toJSON?.(),
    };
  }

  stores(): Store[] {
    const stores: Store[] = [];
    if (typeof indexedDB !== "undefined") stores.push(new IndexedDbStore(this._prefix));
    if (this._storage) stores.push(new LocalStorageStore(this._storage, this._prefix));
    return stores;
  }

  context(): Record<string, unknown> {
    if (!this._document) return { ...this._constant };
    const { page, campaign } = this._look();
    const { width, height } = screen;
    return {
      ...this._constant,
      page,
      campaign,
      screen: { width, height, density: devicePixelRatio, innerWidth, innerHeight },
    };
  }

  page(): Record<string, unknown> {
    return this._document ? { ...this._look().page } : {};
  }

  /** The address, title and campaign; made anew only when they changed. */
  private _look(): NonNullable<Page["_seen"]> {
    const { href } = location;
    const { title } = this._document!;
    if (this._seen?.url !== href || this._seen.title !== title) {
      const query = new URLSearchParams(location.search);
      const campaign: Record<string, string> = {};
      query.forEach((value, key) => {
        // https://segment.com/docs/connections/spec/common/#context: utm_campaign is its name.
        if (key.startsWith("utm_")) campaign[key === "utm_campaign" ? "name" : key.slice(4)] = value;
      });
      this._seen = {
        url: href,
        title,
        page: {
          path: location.pathname,
          referrer: this._referrer,
          referring_domain: domainOf(this._referrer),
          search: location.search,
          title,
          url: href.split("#")[0],
        },
        campaign: Object.keys(campaign).length ? campaign : undefined,
      };
    }
    return this._seen!;
  }

  hidden(): boolean {
    return this._document?.visibilityState === "hidden";
  }

  online(): boolean {
    return navigator.onLine !== false;
  }

  beacon(url: string, body: string): boolean {
    try {
      // With an answer that nobody reads: `sendBeacon`, but without cookies.
      if ("keepalive" in Request.prototype) {
        const headers = { "content-type": "text/plain;charset=UTF-8" };
        fetch(url, { method: "POST", body, headers, keepalive: true, credentials: "omit" }).catch(() => {});
        return true;
      }
      return navigator.sendBeacon(url, body);
    } catch {
      // Too much is on its way already: it stays in the queue.
      return false;
    }
  }

  listen(hooks: Hooks): () => void {
    const stops: (() => void)[] = [];
    const on = (target: EventTarget | undefined, name: string, listener: (event: Event) => void): void => {
      target?.addEventListener(name, listener);
      stops.push(() => target?.removeEventListener(name, listener));
    };
    on(globalThis, "online", hooks.wake);
    on(globalThis, "pagehide", hooks.leave);
    on(globalThis, "pageshow", (event) => {
      if (!(event as PageTransitionEvent).persisted) return;
      // What happened elsewhere meanwhile was told to nobody here.
      if (this._shelf) hooks.changed();
      hooks.wake();
    });
    on(this._document, "visibilitychange", () => (this.hidden() ? hooks.hide() : hooks.wake()));
    on(globalThis, "storage", (event) => {
      const key = (event as StorageEvent).key;
      if (this._shelf && (!key || key.startsWith(COOKIE_PREFIX))) hooks.changed();
    });
    return () => stops.forEach((stop) => stop());
  }

  // ---- what is remembered

  recall(name: string): string | undefined {
    const key = COOKIE_PREFIX + name;
    if (this._ids === "cookie" && this._document && !isLong(name)) {
      const found = cookie(key);
      if (found !== undefined) return found;
    }
    return this._memory.get(key) ?? this._shelf?.getItem(key) ?? undefined;
  }

  remember(name: string, value: string | undefined): void {
    const key = COOKIE_PREFIX + name;
    // Memory has what nothing else keeps; elsewhere other tabs may have changed it.
    this._memory.delete(key);
    try {
      if (value === undefined) this._shelf?.removeItem(key);
      else if (!this._shelf) this._memory.set(key, value);
      // An equal value would wake all other tabs for nothing.
      else if (this._shelf.getItem(key) !== value) this._shelf.setItem(key, value);
    } catch {
      // Full.
      this._memory.set(key, value!);
    }
    if (this._ids === "cookie" && this._document && !isLong(name) && cookie(key) !== value) this._setCookie(key, value);
  }

  private _setCookie(key: string, value: string | undefined): void {
    const { cookieDomain = "auto", cookieDays = 365 } = this._options;
    this._domain ??= cookieDomain === "auto" ? widestDomain() : cookieDomain;
    setCookie(key, value, this._domain, value === undefined ? 0 : cookieDays * DAY_S);
  }
}

/** Too long for a header that goes along with every request to the site. */
function isLong(name: string): boolean {
  return name.endsWith("traits");
}

function storage(): Storage | undefined {
  try {
    localStorage.setItem(PROBE, "1");
    localStorage.removeItem(PROBE);
    return localStorage;
  } catch {
    // Forbidden (private mode, an iframe of another site) or full.
    return undefined;
  }
}

function cookie(key: string): string | undefined {
  const found = document.cookie.split("; ").find((pair) => pair.startsWith(`${key}=`));
  try {
    return found && decodeURIComponent(found.slice(key.length + 1));
  } catch {
    return undefined;
  }
}

function setCookie(key: string, value: string | undefined, domain: string, maxAgeS: number): void {
  document.cookie =
    `${key}=${encodeURIComponent(value ?? "")};path=/;max-age=${maxAgeS};samesite=lax` +
    (domain && `;domain=${domain}`) +
    (location.protocol === "https:" ? ";secure" : "");
}

/** Browsers refuse cookies for public suffixes: the shortest domain that works is the site's own. */
function widestDomain(): string {
  const labels = location.hostname.split(".");
  for (let at = labels.length - 2; at >= 0; at--) {
    const domain = labels.slice(at).join(".");
    setCookie(PROBE, "1", domain, 10);
    if (cookie(PROBE)) {
      setCookie(PROBE, undefined, domain, 0);
      return domain;
    }
  }
  return "";
}

function domainOf(url: string): string {
  try {
    return url && new URL(url).hostname;
  } catch {
    return "";
  }
}
