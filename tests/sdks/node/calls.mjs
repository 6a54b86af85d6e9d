// The six calls in their fixed order, as the server-side SDKs take them; the plan comes on stdin.
import { readFileSync } from "node:fs";

export const plan = JSON.parse(readFileSync(0, "utf8"));

/** Yields, for each round and user, the six calls as [method, message] pairs. */
export function* turns() {
  let seq = 0;
  for (let round = 0; round < plan.rounds; round++) {
    for (let number = 0; number < plan.users; number++) {
      const userId = `${plan.run}-user-${number}`;
      const anonymousId = `${plan.run}-anon-${number}`;
      const marked = (message) => {
        const mark = { run: plan.run, seq: seq++ };
        const fields = { seq: mark.seq, run: plan.run };
        return { ...message(fields), context: { mark } };
      };
      const both = { userId, anonymousId };
      yield [
        ["identify", marked((traits) => ({ ...both, traits }))],
        ["track", marked((properties) => ({ ...both, event: "Order Completed", properties }))],
        ["page", marked((properties) => ({ ...both, category: "Docs", name: "Home", properties }))],
        ["screen", marked((properties) => ({ ...both, category: "Docs", name: "Home", properties }))],
        ["group", marked((traits) => ({ ...both, groupId: `${plan.run}-group`, traits }))],
        ["alias", marked(() => ({ userId, previousId: anonymousId }))],
      ];
    }
  }
}

/** Prints one event, as it left, for the test to compare with what arrived. */
export function report(event) {
  const sent = {
    type: event.type,
    seq: event.context.mark.seq,
    messageId: event.messageId,
    userId: event.userId ?? null,
    anonymousId: event.anonymousId ?? null,
  };
  process.stdout.write(JSON.stringify(sent) + "\n");
}
