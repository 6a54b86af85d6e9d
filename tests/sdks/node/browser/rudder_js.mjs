// @rudderstack/analytics-js (bundled build) in a page; it has no screen call.
import { RudderAnalytics } from "@rudderstack/analytics-js/bundled";

const analytics = new RudderAnalytics();

window.start = ({ endpoint, writeKey }) =>
  new Promise((resolve) => {
    analytics.load(writeKey, endpoint, { configUrl: endpoint, logLevel: "WARN" });
    analytics.ready(resolve);
  });

window.become = async ({ anonymousId }) => {
  analytics.reset();
  analytics.setAnonymousId(anonymousId);
};

window.call = async ({ type, userId, anonymousId, groupId, fields, context }) => {
  const options = { context };
  const calls = {
    identify: () => analytics.identify(userId, fields, options),
    track: () => analytics.track("Order Completed", fields, options),
    page: () => analytics.page("Docs", "Home", fields, options),
    group: () => analytics.group(groupId, fields, options),
    alias: () => analytics.alias(userId, anonymousId, options),
  };
  calls[type]();
};
