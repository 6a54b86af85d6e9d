"""What RudderStack's page on its Python SDK shows, in our words.

https://www.rudderstack.com/docs/sources/event-streams/sdks/rudderstack-python-sdk/ (read 2026-11)
"""

import sys

import rudderstack.analytics as rudder_analytics

rudder_analytics.write_key = "examples"
rudder_analytics.dataPlaneUrl = sys.argv[1]
rudder_analytics.on_error = lambda error, items: sys.exit(f"{error} {items}")
rudder_analytics.debug = False
rudder_analytics.send = True
rudder_analytics.sync_mode = False
rudder_analytics.max_queue_size = 10000
rudder_analytics.gzip = True
rudder_analytics.timeout = 15
rudder_analytics.max_retries = 10
rudder_analytics.upload_interval = 0.5
rudder_analytics.upload_size = 100

rudder_analytics.identify("1hKOmRA4GRlm", {"email": "alex@example.com", "name": "John Doe", "friends": 16})
rudder_analytics.track("1hKOmRA4GRlm", "Article Read", {"title": "The Independence", "author": "John Doe"})
rudder_analytics.track(
    "user_id",
    "Simple Track Event",
    anonymous_id="anonymousId",
    properties={"key1": "val1"},
    context={"key1": "val1"},
)
rudder_analytics.page("1hKOmRA4GRlm", "Documentation", "Sample Doc", {"url": "https://example.com"})
rudder_analytics.screen("1hKOmRA4GRlm", "Settings", "Brightness", {"from": "Settings Screen"})
rudder_analytics.group("1hKOmRA4GRlm", "12", {"name": "Company", "domain": "IT"})
rudder_analytics.alias("previous_id", "user_id")
rudder_analytics.flush()
rudder_analytics.shutdown()
