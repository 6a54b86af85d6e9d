// Sends all six calls with the unmodified @rudderstack/rudder-sdk-node.
import { gunzipSync } from "node:zlib";

import RudderAnalytics from "@rudderstack/rudder-sdk-node";

import { plan, report, turns } from "./calls.mjs";

const analytics = new RudderAnalytics(plan.writeKey, {
  dataPlaneUrl: plan.endpoint,
  errorHandler: (error) => {
    process.stderr.write(`the SDK gave up: ${error}\n`);
    process.exitCode = 1;
  },
});

for (const turn of turns()) {
  const answered = [];
  for (const [method, message] of turn) {
    const { seq } = message.context.mark;
    answered.push(
      new Promise((resolve, reject) => {
        analytics[method](message, (error, data) => {
          if (error) return reject(error);
          // The callback gets the request body as it left: gzipped JSON of the whole batch.
          const { batch } = JSON.parse(gunzipSync(data));
          resolve(batch.find((event) => event.context.mark.seq === seq));
        });
      }),
    );
    // The very first event leaves alone at once, and later batches in parallel with it; order can only
    // be promised between requests that do not overlap.
    if (seq === 0) await analytics.flush();
  }
  await analytics.flush();
  for (const event of await Promise.all(answered)) report(event);
}
process.exit();
