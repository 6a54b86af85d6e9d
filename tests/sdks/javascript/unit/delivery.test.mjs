// From the call to the server and back, against a server that misbehaves: exactly once, in order.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Analytics, folder, numbers, quick, range, serve, track, until } from "./kit.mjs";

const closing = [];
after(async () => {
  for (const close of closing) await close();
});

async function start(script, more = {}) {
  const server = await serve(script);
  const { options, reports } = quick(server.host, { directory: folder(), ...more });
  const analytics = new Analytics(options);
  closing.push(async () => {
    await analytics.close(0);
    await server.close();
  });
  return { server, analytics, reports, options };
}

test("batches hold a hundred events, one in flight, in order", async () => {
  let flying = 0;
  const { server, analytics } = await start(async () => {
    assert.equal(++flying, 1);
    await new Promise((resolve) => setTimeout(resolve, 5));
    flying--;
    return 200;
  });
  for (const n of range(0, 1050)) track(analytics, n);
  assert.equal(await analytics.flush(), true);
  assert.deepEqual(numbers(server.kept()), range(0, 1050));
  assert.deepEqual(server.requests.map(({ body }) => body.batch.length), [...Array(10).fill(100), 50]);
  assert.equal(analytics.stats.delivered, 1050);
});

test("fewer than a batch are sent when their time is over", async () => {
  const { server, analytics } = await start();
  track(analytics, 0);
  await until(() => server.kept().length === 1);
});

test("every failure that may pass is repeated, with the same ids and a new sentAt", async () => {
  const failures = [500, 503, 408, 425, [429, { "retry-after": "0" }], "cut", 502, [200, {}, "<html>log in</html>"], [200, {}, {}]];
  const { server, analytics, reports } = await start((_, number) => failures[number] ?? 200);
  for (const n of range(0, 250)) track(analytics, n);
  assert.equal(await analytics.flush(), true);
  const kept = server.requests.filter(({ body }) => body.batch.length).slice(failures.length);
  assert.deepEqual(numbers(kept.flatMap(({ body }) => body.batch)), range(0, 250));
  for (const { body } of server.requests.slice(0, failures.length)) {
    assert.deepEqual(body.batch.map(({ messageId }) => messageId), range(0, 100).map((n) => `m-${n}`));
  }
  assert.deepEqual(
    reports.filter(({ type }) => type === "retry").map(({ status }) => status),
    [500, 503, 408, 425, 429, 0, 502, 200, 200],
  );
  assert.ok(new Set(server.requests.map(({ body }) => body.sentAt)).size > 1);
});

test("Retry-After is waited for, in seconds and as a date", async () => {
  const { server, analytics, reports } = await start((_, number) => {
    if (number === 0) return [429, { "retry-after": "1" }];
    if (number === 1) return [503, { "retry-after": new Date(Date.now() + 2_000).toUTCString() }];
    return 200;
  });
  track(analytics, 0);
  assert.equal(await analytics.flush(), true);
  const [first, second] = reports.filter(({ type }) => type === "retry").map(({ waitMs }) => waitMs);
  assert.ok(first >= 1_000 && first <= 1_100, `${first}`);
  assert.ok(second > 500 && second <= 2_200, `${second}`);
  const at = server.requests.map((request) => request.at);
  assert.ok(at[1] - at[0] >= 990, "the first wait was cut short");
});

test("a refused batch is split until the refused event is found", async () => {
  const bad = new Set([17, 63]);
  const { server, analytics, reports } = await start(({ body }) =>
    body.batch.some(({ properties }) => bad.has(properties.n)) ? [400, {}, { code: "bad", message: "no" }] : 200,
  );
  for (const n of range(0, 120)) track(analytics, n);
  assert.equal(await analytics.flush(), true);
  assert.deepEqual(numbers(server.kept()), range(0, 120).filter((n) => !bad.has(n)));
  const refused = reports.filter(({ type }) => type === "refused");
  assert.deepEqual(refused.map(({ event, status, code }) => [event.messageId, status, code]), [["m-17", 400, "bad"], ["m-63", 400, "bad"]]);
  assert.deepEqual((await analytics.refused()).map(({ event }) => event.messageId), ["m-17", "m-63"]);
  assert.equal(analytics.stats.refused, 2);
});

test("what the server's answer lists as rejected is set aside without a search", async () => {
  const rejected = [{ index: 1, code: "too_deep", message: "nested" }];
  const { server, analytics, reports } = await start(() => [200, {}, { success: true, accepted: 2, rejected }]);
  for (const n of range(0, 3)) track(analytics, n);
  assert.equal(await analytics.flush(), true);
  assert.equal(server.requests.length, 1);
  assert.deepEqual(reports.find(({ type }) => type === "refused").event.messageId, "m-1");
  assert.equal(analytics.stats.delivered, 2);
});

test("a refused event stays set aside across a restart and is not sent again", async () => {
  const server = await serve(({ body }) => (body.batch.some(({ properties }) => properties.n === 1) ? 400 : 200));
  const { options } = quick(server.host, { directory: folder() });
  const before = new Analytics(options);
  for (const n of range(0, 3)) track(before, n);
  assert.equal(await before.close(), true);
  const count = server.requests.length;
  const analytics = new Analytics(options);
  assert.equal(await analytics.flush(), true);
  assert.deepEqual((await analytics.refused()).map(({ event }) => event.messageId), ["m-1"]);
  assert.equal(server.requests.length, count);
  await analytics.close();
  await server.close();
});

for (const status of [401, 403, 404]) {
  test(`${status} pauses, keeps everything, and goes on when told`, async (t) => {
    const said = t.mock.method(console, "error", () => {});
    let good = false;
    const { server, analytics, reports } = await start(() => (good ? 200 : [status, {}, { code: "x", message: "wrong key" }]));
    for (const n of range(0, 5)) track(analytics, n);
    await until(() => reports.some(({ type }) => type === "paused"));
    assert.match(String(said.mock.calls[0].arguments[0]), new RegExp(`${status} wrong key`));
    assert.equal(await analytics.flush(100), false);
    assert.equal(server.requests.length, 1);
    good = true;
    analytics.resume();
    assert.equal(await analytics.flush(), true);
    assert.deepEqual(numbers(server.kept()), range(0, 5));
    assert.ok(reports.some(({ type }) => type === "resumed"));
  });
}

test("events that are too old are given up after an attempt failed, and only then", async () => {
  let down = true;
  const { server, analytics, reports } = await start(() => (down ? 503 : 200), { maxAgeMs: 300 });
  track(analytics, 0);
  await until(() => reports.some(({ type, reason }) => type === "dropped" && reason === "age"));
  assert.equal(analytics.stats.dropped.age, 1);
  down = false;
  track(analytics, 1);
  assert.equal(await analytics.flush(), true);
  assert.deepEqual(numbers(server.kept()), [1]);
});

test("a device that was off for longer than the age limit still gets its attempt", async () => {
  const server = await serve();
  const { options } = quick(server.host, { directory: folder(), maxAgeMs: 1 });
  const before = new Analytics({ ...options, host: "http://127.0.0.1:9", maxAgeMs: 60_000 });
  track(before, 0);
  assert.equal(await before.close(0), false);
  await new Promise((resolve) => setTimeout(resolve, 20));
  const analytics = new Analytics(options);
  await until(() => server.kept().length === 1);
  await analytics.close();
  await server.close();
});

test("batches stay below their bytes, and are compressed where that pays", async () => {
  const { server, analytics } = await start(() => 200, { maxEventBytes: 40_000 });
  for (const n of range(0, 60)) track(analytics, n, { properties: { n, text: "é".repeat(15_000) } });
  assert.equal(await analytics.flush(), true);
  assert.deepEqual(numbers(server.kept()), range(0, 60));
  for (const { body, headers } of server.requests) {
    assert.ok(Buffer.byteLength(JSON.stringify(body)) <= 500_500);
    assert.equal(headers["content-encoding"], "gzip");
    assert.equal(headers["content-type"], "text/plain;charset=UTF-8");
    assert.equal(body.writeKey, "unit");
  }
});

test("where a compressed body gets no answer, the next attempt is plain", async () => {
  const { server, analytics } = await start(({ headers }) => (headers["content-encoding"] ? "cut" : 200));
  for (const n of range(0, 30)) track(analytics, n);
  assert.equal(await analytics.flush(), true);
  assert.deepEqual(numbers(server.kept()), range(0, 30));
});

test("when the queue is full the oldest go, to the event, and nothing below the bound", async () => {
  let down = true;
  const { server, analytics, reports } = await start(() => (down ? 503 : 200), {
    maxQueueEvents: 1_000, retryBaseMs: 60_000, retryCapMs: 60_000,
  });
  for (const n of range(0, 1_000)) track(analytics, n);
  await until(() => reports.some(({ type }) => type === "retry"));
  assert.deepEqual(analytics.stats.dropped, {});
  for (const n of range(1_000, 1_337)) track(analytics, n);
  await until(() => analytics.stats.dropped.full >= 337);
  assert.equal(analytics.stats.dropped.full, 337);
  down = false;
  analytics.resume();
  assert.equal(await analytics.flush(), true);
  // The batch that was in flight is the oldest and stays; those behind it went.
  assert.deepEqual(numbers(server.kept()), [...range(0, 100), ...range(437, 1_337)]);
  assert.equal(reports.filter(({ reason }) => reason === "full").reduce((sum, { count }) => sum + count, 0), 337);
});

test("more in one task than the queue holds: the newest are kept", async () => {
  const { server, analytics } = await start(() => 200, { maxQueueEvents: 500 });
  for (const n of range(0, 5_000)) track(analytics, n);
  assert.equal(await analytics.flush(), true);
  assert.deepEqual(numbers(server.kept()), range(4_500, 5_000));
  assert.deepEqual(analytics.stats.dropped, { full: 4_500 });
});

test("the bound in bytes holds too", async () => {
  const { server, analytics } = await start(() => 503, {
    batchEvents: 10, maxQueueBytes: 100_000, retryBaseMs: 60_000, retryCapMs: 60_000,
  });
  for (const n of range(0, 200)) {
    track(analytics, n, { properties: { n, text: "x".repeat(1_000) } });
    if (n % 20 === 0) await new Promise(setImmediate);
  }
  await until(() => analytics.stats.dropped.full > 100 && server.requests.length);
  const { full } = analytics.stats.dropped;
  assert.ok(200 - full >= 78 && 200 - full <= 86, `${200 - full} of about 1.2 kB are kept`);
});

test("the newest are refused where that is the setting", async () => {
  const { server, analytics, reports } = await start(() => 200, { maxQueueEvents: 10, whenFull: "refuse-newest" });
  const ids = range(0, 15).map((n) => track(analytics, n));
  assert.deepEqual(ids.map(Boolean), [...Array(10).fill(true), ...Array(5).fill(false)]);
  assert.equal(await analytics.flush(), true);
  assert.deepEqual(numbers(server.kept()), range(0, 10));
  assert.equal(reports.filter(({ reason }) => reason === "full").length, 5);
});

test("a hundred thousand events in one task: none is lost below the bound", async () => {
  const { server, analytics } = await start(() => 200, { batchEvents: 1_000 });
  for (const n of range(0, 100_000)) track(analytics, n);
  assert.equal(await analytics.flush(60_000), true);
  assert.deepEqual(numbers(server.kept()), range(0, 100_000));
  assert.deepEqual(analytics.stats.dropped, {});
});

test("debug explains each step, and a callback that throws harms nothing", async (t) => {
  t.mock.method(console, "error", () => {});
  const lines = [];
  const { server, analytics } = await start((_, number) => (number ? 200 : 500), {
    debug: (line) => lines.push(line),
    onReport: () => {
      throw new Error("mine");
    },
  });
  track(analytics, 0);
  assert.equal(await analytics.flush(), true);
  assert.equal(server.kept().length, 1);
  const told = lines.join("\n");
  for (const step of [/track Step m-0/, /stored 1 events/, /sending 1 events/, /"retry","status":500/, /"delivered","count":1/]) {
    assert.match(told, step);
  }
});
