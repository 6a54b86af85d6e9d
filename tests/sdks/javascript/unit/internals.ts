// Parts of the SDK that are tested by themselves; bundled for Node by the test's set-up.
export { plain, utf8Bytes } from "../../../../sdks/javascript/src/json";
export { lease } from "../../../../sdks/javascript/src/locks";
export { retryAfterMs } from "../../../../sdks/javascript/src/sender";
export { snippet } from "../../../../sdks/javascript/src/snippet";
export { makeKey, MemoryStore, parseKey, Tiers } from "../../../../sdks/javascript/src/store";
export { FileStore, sqlite, SqliteStore } from "../../../../sdks/javascript/src/store_node";
export { LocalStorageStore } from "../../../../sdks/javascript/src/store_web";
