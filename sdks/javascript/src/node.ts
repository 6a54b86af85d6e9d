/** `@mainstem/analytics` for Node: events of many users, each with its own ids. */
import { join } from "node:path";
import { Analytics as Core } from "./analytics";
import { claim, type Claim } from "./claim";
import { alone } from "./locks";
import type { Platform } from "./platform";
import type { Store } from "./store";
import { FileStore, sqlite, SqliteStore } from "./store_node";
import type { NodeOptions } from "./types";

class Server implements Platform {
  readonly channel = "server";
  readonly shared = false;
  readonly gzipFromBytes = 1_024;
  readonly exclusively = alone;
  private _claim: Claim | undefined;

  constructor(private _options: NodeOptions) {}

  stores(): Store[] {
    const { directory, queue = "default", store = "auto" } = this._options;
    if (!directory) return [];
    this._claim = claim(join(directory, queue));
    const database = store === "file" ? undefined : sqlite();
    if (store === "sqlite" && !database) throw new Error(`Node ${process.version} has no node:sqlite`);
    const { folder } = this._claim;
    return [database ? new SqliteStore(database, folder) : new FileStore(folder)];
  }

  release(): void {
    this._claim?.release();
  }

  context(): Record<string, unknown> {
    return {};
  }

  page(): Record<string, unknown> {
    return {};
  }

  hidden(): boolean {
    return false;
  }

  online(): boolean {
    return true;
  }

  beacon(): boolean {
    return false;
  }

  listen(): () => void {
    return () => {};
  }

  recall(): undefined {}

  remember(): void {}
}

export class Analytics extends Core {
  private _server: Server;

  /** @throws Error when the directory cannot be used: better at the start than in the middle. */
  constructor(options: NodeOptions) {
    const server = new Server(options);
    super(options, server);
    this._server = server;
  }

  override async close(timeoutMs?: number): Promise<boolean> {
    const sent = await super.close(timeoutMs);
    this._server.release();
    return sent;
  }
}

export type * from "./types";
