"""What Segment's page on its Python library shows, in our words: settings of the module, and every call.

https://segment.com/docs/connections/sources/catalog/libraries/server/python/ (read 2026-11)
"""

import datetime
import sys

import segment.analytics as analytics

failed = []


def on_error(error, items):
    failed.append((error, items))


analytics.write_key = "examples"
analytics.host = sys.argv[1]
analytics.debug = False
analytics.on_error = on_error
analytics.send = True
analytics.sync_mode = False
analytics.max_queue_size = 10000
analytics.gzip = True
analytics.timeout = 15
analytics.max_retries = 10

analytics.identify("019mr8mf4r", {"email": "john@example.com", "name": "John Smith", "friends": 30})
analytics.track("f4ca124298", "Signed Up", {"plan": "Enterprise"})
analytics.track("f4ca124298", "Article Bookmarked", {"title": "Snow Fall", "author": None})
analytics.page("user_id", "Docs", "Python", {"url": "http://example.com"})
analytics.screen("user_id", "Settings", "Brightness", {"from": "Home Screen"})
analytics.group("user_id", "group_id", {"name": "Initech", "domain": "Accounting Software"})
analytics.track("92734232-2342423423-973945", "Anonymous Event")
analytics.alias("92734232-2342423423-973945", "1234")
analytics.identify("1234", {"plan": "Free"})
analytics.track("1234", "Identified Action")
timestamp = datetime.datetime(2538, 10, 17, 0, 0, 0, 0, tzinfo=datetime.UTC)
analytics.track("019mr8mf4r", "Bought a game", {"game": "Duke Nukem forever"}, timestamp=timestamp)
analytics.track(None, "No user yet", anonymous_id="anon-1")
analytics.track(
    user_id=42, event="Number", context={"ip": "1.2.3.4"}, integrations={"All": False, "Mixpanel": True}
)
analytics.identify(
    user_id="u", traits=None, context={"app": {"name": "shop"}}, anonymous_id="a", message_id="own-id"
)
taken, message = analytics.track("u", "Returned")
assert taken
assert message["messageId"]
assert message["event"] == "Returned"
for wrong in (
    lambda: analytics.track("u"),
    lambda: analytics.track(None, "No id"),
    lambda: analytics.track("u", "E", ["not", "a", "dict"]),
    lambda: analytics.identify("u", "no traits"),
    lambda: analytics.group("u"),
):
    try:
        wrong()
    except AssertionError:
        continue
    raise SystemExit("a wrong call was taken")
analytics.flush()
analytics.join()
analytics.shutdown()
assert not failed, failed
