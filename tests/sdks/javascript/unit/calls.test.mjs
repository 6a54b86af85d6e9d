// The calls and what becomes of their arguments.
import assert from "node:assert/strict";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Analytics, folder, internals, quick, range, serve, track } from "./kit.mjs";

const { plain, utf8Bytes, retryAfterMs } = internals;

async function arrived(make, more = {}) {
  const server = await serve();
  const { options, reports } = quick(server.host, more);
  const analytics = new Analytics(options);
  await make(analytics);
  await analytics.close();
  await server.close();
  return { events: server.kept(), reports, stats: analytics.stats };
}

test("the six calls of a server, each with its own ids", async () => {
  const { events } = await arrived((analytics) => {
    analytics.identify({ userId: "u1", traits: { plan: "pro" } });
    analytics.identify("u2", { plan: "free" });
    analytics.track({ anonymousId: "a1", event: "Seen", properties: { at: new Date(0) }, timestamp: new Date(1_000) });
    analytics.page({ userId: "u1", name: "Home" });
    analytics.screen({ userId: "u1", name: "Start" });
    analytics.group({ userId: "u1", groupId: "g1", traits: { name: "Acme" } });
    analytics.alias({ userId: "u1", previousId: "a1" });
  });
  assert.deepEqual(events.map(({ type, userId, anonymousId }) => [type, userId, anonymousId]), [
    ["identify", "u1", undefined], ["identify", "u2", undefined], ["track", undefined, "a1"], ["page", "u1", undefined],
    ["screen", "u1", undefined], ["group", "u1", undefined], ["alias", "u1", undefined],
  ]);
  assert.deepEqual(events[1].traits, { plan: "free" });
  const seen = events[2];
  assert.equal(seen.timestamp, "1970-01-01T00:00:01.000Z");
  assert.ok(Math.abs(Date.parse(seen.originalTimestamp) - Date.now()) < 60_000);
  assert.equal(seen.properties.at, "1970-01-01T00:00:00.000Z");
  assert.deepEqual(seen.context, { library: { name: "@mainstem/analytics", version: "0.1.0" } });
  assert.equal(events[6].previousId, "a1");
  assert.equal(new Set(events.map(({ messageId }) => messageId)).size, 7);
});

test("what is no event is reported, not thrown", async () => {
  const { events, reports } = await arrived((analytics) => {
    assert.equal(analytics.track({ event: "no id" }), undefined);
    assert.equal(analytics.track({ userId: "u" }), undefined);
    assert.equal(analytics.track(null), undefined);
    assert.equal(analytics.group({ userId: "u" }), undefined);
    assert.equal(analytics.track({ userId: "u", event: "e", timestamp: "never" }), undefined);
    analytics.track({ userId: "u", event: "big", properties: { text: "x".repeat(40_000) } });
  });
  assert.deepEqual(events, []);
  const dropped = reports.filter(({ type }) => type === "dropped");
  assert.deepEqual(dropped.map(({ reason }) => reason), ["invalid", "invalid", "invalid", "invalid", "invalid", "too_large"]);
  assert.match(dropped[5].detail, /big: 40\d\d\d bytes/);
});

test("a folder that cannot be used is told at the start", () => {
  const file = join(folder(), "a-file");
  writeFileSync(file, "");
  assert.throws(() => new Analytics(quick("http://127.0.0.1:9", { directory: file }).options), /ENOTDIR/);
});

test("after close nothing is taken, loudly", async () => {
  const { stats } = await arrived(async (analytics) => {
    await analytics.close();
    track(analytics, 0);
  });
  assert.deepEqual(stats.dropped, { closed: 1 });
});

test("what the caller changes later changes nothing", async () => {
  const { events } = await arrived((analytics) => {
    const properties = { n: 1, list: [1] };
    analytics.track({ userId: "u", event: "e", properties });
    properties.n = 2;
    properties.list.push(2);
  });
  assert.deepEqual(events[0].properties, { n: 1, list: [1] });
});

test("any value becomes JSON", () => {
  const cyclic = { name: "a" };
  cyclic.self = cyclic;
  const deep = range(0, 200).reduce((inner) => ({ inner }), 1);
  const broken = { ok: 1, get bad() { throw new Error("no"); } };
  class Money { constructor() { this.amount = 5n; } }
  assert.deepEqual(plain(cyclic), { name: "a", self: "[circular]" });
  assert.match(JSON.stringify(plain(deep)), /\[too deep\]/);
  assert.match(String(plain(broken)), /no/);
  assert.deepEqual(plain({ m: new Map([["a", new Set([1n, 2n ** 80n])]]) }), { m: { a: [1, String(2n ** 80n)] } });
  assert.deepEqual(plain([undefined, () => 1, Symbol("s"), null]), [null, null, null, null]);
  assert.deepEqual(plain({ u: undefined, f: () => 1, d: new Date(0) }), { d: "1970-01-01T00:00:00.000Z" });
  assert.deepEqual(plain({ e: new TypeError("t"), b: new Uint8Array([1, 2]) }), { e: { name: "TypeError", message: "t" }, b: [1, 2] });
  assert.equal(JSON.stringify(plain({ nan: NaN, inf: Infinity, money: new Money() })), '{"nan":null,"inf":null,"money":{"amount":5}}');
  assert.equal(JSON.stringify(plain(JSON.parse('{"__proto__": {"x": 1}}'))), '{"__proto__":{"x":1}}');
  assert.deepEqual(plain({ twice: [cyclic.name, cyclic.name] }), { twice: ["a", "a"] });
  const shared = { x: 1 };
  assert.deepEqual(plain([shared, shared]), [{ x: 1 }, { x: 1 }]);
});

test("sizes are those of UTF-8", () => {
  for (const text of ["", "plain", "é", "€uro", "😀 face", "日本語", "a".repeat(1_000) + "ß"]) {
    assert.equal(utf8Bytes(text), Buffer.byteLength(text), text);
  }
});

test("Retry-After in all its forms", () => {
  assert.equal(retryAfterMs(null), undefined);
  assert.equal(retryAfterMs("soon"), undefined);
  assert.equal(retryAfterMs("120"), 120_000);
  assert.equal(retryAfterMs("99999999"), 86_400_000);
  assert.equal(retryAfterMs(new Date(0).toUTCString()), 0);
  const date = retryAfterMs(new Date(Date.now() + 60_000).toUTCString());
  assert.ok(date > 50_000 && date <= 60_000);
});

test("middleware enriches and drops; one that throws loses its event, not the others", async () => {
  const { events, stats } = await arrived((analytics) => {
    analytics.use((event) => {
      if (event.event === "secret") return null;
      if (event.event === "broken") throw new Error("bug");
      event.context.app = "shop";
      event.properties.size = 5n;
    });
    analytics.use((event) => ({ ...event, event: event.event.toUpperCase() }));
    for (const event of ["a", "secret", "broken", "b"]) analytics.track({ userId: "u", event, properties: {} });
  });
  assert.deepEqual(events.map(({ event, context, properties }) => [event, context.app, properties.size]), [["A", "shop", 5], ["B", "shop", 5]]);
  assert.deepEqual(stats.dropped, { middleware: 2 });
});

test("sampling keeps the same users, and a share of the events named", async () => {
  const make = (analytics) => {
    for (const n of range(0, 2_000)) {
      analytics.track({ anonymousId: `visitor-${n}`, event: "Step" });
      analytics.track({ anonymousId: `visitor-${n}`, event: "Heartbeat", messageId: `beat-${n}` });
    }
  };
  const sampling = { rate: 0.25, events: { Heartbeat: 0.1 } };
  const [one, two] = [await arrived(make, { sampling }), await arrived(make, { sampling })];
  const of = (found, name) => found.events.filter(({ event }) => event === name).map(({ anonymousId }) => anonymousId);
  assert.deepEqual(of(one, "Step"), of(two, "Step"));
  assert.deepEqual(of(one, "Heartbeat"), of(two, "Heartbeat"));
  // Five standard deviations on either side.
  assert.ok(Math.abs(of(one, "Step").length - 500) < 97, `${of(one, "Step").length} of 2000`);
  assert.ok(Math.abs(of(one, "Heartbeat").length - 200) < 67, `${of(one, "Heartbeat").length} of 2000`);
});

test("before consent nothing is written, refused nothing is kept, given everything is sent in order", async () => {
  const server = await serve();
  const directory = folder();
  const { options, reports } = quick(server.host, { directory, consent: { required: ["analytics"] } });
  const analytics = new Analytics(options);
  for (const n of range(0, 5)) track(analytics, n);
  assert.equal(existsSync(join(directory, "default")), false);
  analytics.setConsent({ analytics: true, marketing: false });
  for (const n of range(5, 8)) track(analytics, n);
  assert.equal(await analytics.flush(), true);
  assert.deepEqual(server.kept().map(({ properties }) => properties.n), range(0, 8));
  assert.deepEqual(server.kept()[0].context.consent, { categoryPreferences: { analytics: true, marketing: false } });
  assert.ok(readdirSync(join(directory, "default", "0")).length);
  analytics.setConsent({ analytics: false });
  track(analytics, 9);
  assert.equal(await analytics.flush(), true);
  assert.equal(server.kept().length, 8);
  assert.equal(reports.at(-1).reason, "consent");
  await analytics.close();
  await server.close();
});

test("refusal throws away what waits on the disk", async () => {
  const server = await serve(() => 503);
  const directory = folder();
  const { options, reports } = quick(server.host, { directory });
  const analytics = new Analytics({ ...options, consent: { required: ["analytics"], categories: { analytics: true } } });
  for (const n of range(0, 5)) track(analytics, n);
  assert.equal(await analytics.flush(20), false);
  analytics.setConsent({ analytics: false });
  await analytics.close();
  assert.equal(analytics.stats.dropped.consent, 5, JSON.stringify(reports));
  const after = new Analytics(options);
  assert.equal(await after.flush(), true, "nothing waits");
  assert.equal(after.stats.delivered, 0);
  await after.close();
  await server.close();
});

test("the snippet is a script tag that cannot be broken out of", () => {
  const text = internals.snippet("k</script><b>", "https://e.example/", { flushIntervalMs: 5 });
  assert.equal(text.match(/<\/script>/g).length, 1);
  assert.match(text, /"https:\/\/e\.example"/);
});
