// @segment/analytics-next in a page: window.start(plan) loads it, window.call(...) makes one call.
import { AnalyticsBrowser } from "@segment/analytics-next";

let analytics;

window.start = async ({ endpoint, writeKey }) => {
  // Where the events go is part of the settings document that the gateway serves at cdnURL.
  analytics = AnalyticsBrowser.load({ writeKey, cdnURL: endpoint });
  await analytics.ready();
};

window.become = async ({ anonymousId }) => {
  await analytics.reset();
  await analytics.setAnonymousId(anonymousId);
};

window.call = async ({ type, userId, anonymousId, groupId, fields, context }) => {
  const options = { context };
  const calls = {
    identify: () => analytics.identify(userId, fields, options),
    track: () => analytics.track("Order Completed", fields, options),
    page: () => analytics.page("Docs", "Home", fields, options),
    screen: () => analytics.screen("Docs", "Home", fields, options),
    group: () => analytics.group(groupId, fields, options),
    alias: () => analytics.alias(userId, anonymousId, options),
  };
  await calls[type]();
};
