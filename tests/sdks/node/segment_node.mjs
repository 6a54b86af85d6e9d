// Sends all six calls with the unmodified @segment/analytics-node.
import { Analytics } from "@segment/analytics-node";

import { plan, report, turns } from "./calls.mjs";

const analytics = new Analytics({ writeKey: plan.writeKey, host: plan.endpoint });
analytics.on("error", (error) => {
  process.stderr.write(`the SDK gave up: ${JSON.stringify(error.reason ?? error)}\n`);
  process.exitCode = 1;
});

for (const turn of turns()) {
  const answered = turn.map(
    ([method, message]) =>
      new Promise((resolve, reject) => {
        analytics[method](message, (error, context) =>
          error ? reject(error) : resolve(context.event),
        );
      }),
  );
  // Full batches leave in parallel; order can only be promised between requests that do not overlap.
  await analytics.flush();
  for (const event of await Promise.all(answered)) report(event);
}
await analytics.closeAndFlush();
