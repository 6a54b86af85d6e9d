/** `@mainstem/analytics` for pages and service workers. */
import { Analytics as Core } from "./analytics";
import { Page } from "./page";
import type { BrowserOptions } from "./types";

export class Analytics extends Core {
  constructor(options: BrowserOptions) {
    super(options, new Page(options));
    const { pages = "off" } = options;
    if (pages !== "off" && typeof document !== "undefined") {
      this.page();
      // Seen again, out of the back/forward cache: without one it would have been loaded again.
      addEventListener("pageshow", (event) => event.persisted && this.page());
      if (pages === "spa") this._follow();
    }
  }

  /** A page event whenever the address (but for its fragment) changes. */
  private _follow(): void {
    const here = (): string => location.href.split("#")[0]!;
    let last = here();
    const look = (): void => {
      const now = here();
      if (now === last) return;
      const referrer = last;
      last = now;
      // The application sets the title after the address.
      setTimeout(() => this.page({ referrer } as never), 0);
    };
    for (const name of ["pushState", "replaceState"] as const) {
      const original = history[name];
      history[name] = function (this: History, ...args: Parameters<History["pushState"]>): void {
        original.apply(this, args);
        look();
      };
    }
    addEventListener("popstate", look);
  }
}

export type * from "./types";
