// What the disk keeps: through kill -9, cut-off records, several processes.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { appendFileSync, existsSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Analytics, folder, internals, numbers, quick, range, serve, STORE, until } from "./kit.mjs";

const { FileStore, lease, LocalStorageStore, makeKey, MemoryStore, parseKey, sqlite, SqliteStore, Tiers } = internals;
const WRITER = fileURLToPath(new URL("writer.mjs", import.meta.url));

const openStore = (directory) => (STORE === "sqlite" ? new SqliteStore(sqlite(), directory) : new FileStore(directory));

class Shelf {
  // The part of Storage that is used, with a bound as browsers have one.
  constructor(chars = Infinity) {
    this.items = new Map();
    this.chars = chars;
  }
  get length() {
    return this.items.size;
  }
  key(at) {
    return [...this.items.keys()][at];
  }
  getItem(name) {
    return this.items.get(name) ?? null;
  }
  setItem(name, value) {
    const used = [...this.items].reduce((sum, [key, text]) => sum + (key === name ? 0 : text.length), 0);
    if (used + value.length > this.chars) throw new DOMException("full", "QuotaExceededError");
    this.items.set(name, value);
  }
  removeItem(name) {
    this.items.delete(name);
  }
}

const stores = {
  [STORE]: () => openStore(folder()),
  memory: () => new MemoryStore(),
  localStorage: () => new LocalStorageStore(new Shelf(), "p."),
  tiers: () => new Tiers([new LocalStorageStore(new Shelf(50), "p."), new MemoryStore()], () => {}),
};
for (const [name, open] of Object.entries(stores)) {
  test(`${name}: what was put is there until it is removed`, async () => {
    const store = open();
    const keys = range(1, 6).map((seq) => makeKey(seq, "w", 2, 30));
    for (const key of [...keys].reverse()) await store.put([[key, `{"k":"${key}"}\nü`]]);
    assert.deepEqual((await store.keys()).sort(), keys);
    const found = await store.read([keys[1], keys[3], makeKey(99, "w", 1, 1)]);
    assert.deepEqual([...found].sort(), [keys[1], keys[3]].map((key) => [key, `{"k":"${key}"}\nü`]));
    await store.remove([keys[0], keys[3], makeKey(99, "w", 1, 1)]);
    assert.deepEqual((await store.keys()).sort(), [keys[1], keys[2], keys[4]]);
    await store.close();
  });
}

test("keys say everything and sort by time", () => {
  const key = makeKey(1_790_000_000_000_001, "abc", 100, 45_000);
  assert.deepEqual(parseKey(key), { seq: 1_790_000_000_000_001, writer: "abc", events: 100, bytes: 45_000 });
  assert.ok(makeKey(5, "z", 1, 1) < makeKey(1_790_000_000_000_001, "a", 1, 1));
});

test("a store that fails hands over to the next, and says so", async () => {
  const falls = [];
  const tiers = new Tiers([new LocalStorageStore(new Shelf(10), "p."), new MemoryStore()], (...fall) => falls.push(fall));
  await tiers.put([[makeKey(1, "w", 1, 5), "small"]]);
  await tiers.put([[makeKey(2, "w", 1, 50), "x".repeat(50)]]);
  assert.deepEqual(falls.map(([from, to, error]) => [from, to, error.name]), [["localStorage", "memory", "QuotaExceededError"]]);
  assert.equal((await tiers.keys()).length, 2);
});

test("a lease has one holder, and is free again after its time", async () => {
  const shelf = new Shelf();
  const order = [];
  const { signal } = new AbortController();
  const [one, two] = ["one", "two"].map((owner) => (work, left = signal) => lease(shelf, "l", owner)(work, left));
  await Promise.all([
    one(async () => {
      order.push("one in");
      await new Promise((resolve) => setTimeout(resolve, 300));
      order.push("one out");
    }),
    new Promise((resolve) => setTimeout(resolve, 250)).then(() => two(async () => order.push("two in"))),
  ]);
  assert.deepEqual(order, ["one in", "one out", "two in"]);
  shelf.setItem("l", `dead ${Date.now() - 1}`);
  await one(async () => order.push("after the dead"));
  shelf.setItem("l", `future ${Date.now() + 86_400_000}`);
  await one(async () => order.push("after a clock that was wrong"));
  assert.equal(order.length, 5);
  const left = new AbortController();
  let waits;
  await one(async () => {
    waits = two(async () => order.push("never"), left.signal);
    left.abort();
  });
  await waits;
  assert.equal(order.length, 5);
});

test("kill -9 in the middle of a flood: nothing that a task had handed over is lost, nothing comes twice", async () => {
  const directory = folder();
  const child = spawn(process.execPath, [WRITER], {
    env: { ...process.env, DIRECTORY: directory, HOST: "http://127.0.0.1:9", TOTAL: "100000" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let told = -1;
  let text = "";
  child.stdout.on("data", (data) => {
    text += data;
    const lines = text.split("\n");
    told = Number(lines.at(-2) ?? -1);
    // In the middle: it has told of two thousand, and goes on.
    if (told >= 2_000 && !child.killed) child.kill("SIGKILL");
  });
  await new Promise((resolve) => child.on("exit", resolve));
  const last = Number(text.slice(0, text.lastIndexOf("\n")).split("\n").at(-1));
  const server = await serve();
  const analytics = new Analytics(quick(server.host, { directory }).options);
  assert.equal(await analytics.flush(), true);
  const found = numbers(server.kept());
  assert.deepEqual(found, range(0, found.length), "in order, without a gap");
  assert.ok(found.length > last, `${found.length} events, ${last} were told`);
  await analytics.close();
  await server.close();
});

test("killed between the acknowledgement and the deletion: the same events, the same ids", async () => {
  const directory = folder();
  const server = await serve();
  const child = spawn(process.execPath, [WRITER], {
    env: { ...process.env, DIRECTORY: directory, HOST: server.host, TOTAL: "10", DIE: "delivered" },
    stdio: ["ignore", "ignore", "inherit"],
  });
  await new Promise((resolve) => child.on("exit", resolve));
  assert.equal(server.requests.length, 1);
  const analytics = new Analytics(quick(server.host, { directory }).options);
  assert.equal(await analytics.flush(), true);
  assert.equal(server.requests.length, 2);
  assert.deepEqual(server.requests[1].body.batch, server.requests[0].body.batch);
  assert.deepEqual(numbers(server.kept()), range(0, 10));
  await analytics.close();
  await server.close();
});

test("two processes of one directory have a queue each; a dead one's is taken over", async () => {
  const directory = folder();
  const { options } = quick("http://127.0.0.1:9", { directory });
  const [one, two] = [new Analytics(options), new Analytics(options)];
  one.track({ userId: "u", event: "one" });
  two.track({ userId: "u", event: "two" });
  await Promise.all([one.close(0), two.close(0)]);
  assert.ok(existsSync(join(directory, "default", "1")));
  for (const pid of [2 ** 22 + 1, process.pid]) {
    // Nobody has the first id; the second is ours, as pid 1 is every container's.
    writeFileSync(join(directory, "default", "0", "owner"), JSON.stringify({ host: (await import("node:os")).hostname(), pid }));
    const server = await serve();
    const next = new Analytics(quick(server.host, { directory }).options);
    if (pid !== process.pid) await until(() => server.kept().length === 1, "the dead process's event is sent");
    await next.close();
    assert.ok(!existsSync(join(directory, "default", "0", "owner")));
    await server.close();
  }
});

test("file: a record that was cut off is left out, what stands before it is kept", { skip: STORE !== "file" }, async () => {
  const directory = folder();
  const path = join(directory, "queue.log");
  const first = new FileStore(directory);
  await first.put([[makeKey(1, "w", 1, 9), '{"n":"ä"}']]);
  const whole = statSync(path).size;
  await first.put([[makeKey(2, "w", 1, 7), '{"n":2}']]);
  await first.close();
  for (let size = statSync(path).size - 1; size >= whole; size--) {
    truncateSync(path, size);
    const again = new FileStore(directory);
    assert.deepEqual(await again.keys(), [makeKey(1, "w", 1, 9)], `cut at ${size}`);
    await again.close();
  }
  appendFileSync(path, "garbage of a broken disk");
  const again = new FileStore(directory);
  await again.put([[makeKey(3, "w", 1, 7), '{"n":3}']]);
  await again.close();
  const last = new FileStore(directory);
  assert.deepEqual([...(await last.read(await last.keys())).values()], ['{"n":"ä"}', '{"n":3}']);
  await last.close();
});

test("file: it does not grow with what was sent", { skip: STORE !== "file" }, async () => {
  const directory = folder();
  const store = new FileStore(directory);
  const key = (seq) => makeKey(seq, "w", 1, 100_000);
  await store.put([[key(0), "first"]]);
  for (const seq of range(1, 200)) {
    await store.put([[key(seq), "x".repeat(100_000)]]);
    await store.remove([key(seq)]);
    assert.ok(statSync(join(directory, "queue.log")).size < 5_000_000);
  }
  assert.deepEqual([...(await store.read([key(0)])).values()], ["first"]);
  await store.remove([key(0)]);
  assert.equal(readFileSync(join(directory, "queue.log")).length, 0);
  await store.close();
});
