"""Every metric Mainstem has, by name, in one place. `docs/reference/metrics.md` is generated from here.

No phone-home: these are read at `/metrics` and go nowhere else. Labels are bounded: ids of configured things,
fixed words; never a user id, event name or URL.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY: Final = CollectorRegistry()

_LATENCY_BUCKETS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip

# ---- gateway
REQUESTS: Final = Counter(
    "mainstem_gateway_requests_total", "HTTP requests answered.", ["route", "status"], registry=REGISTRY
)
REQUEST_SECONDS: Final = Histogram(
    "mainstem_gateway_request_seconds",
    "From the last byte of the request to the answer.",
    buckets=_LATENCY_BUCKETS_S,
    registry=REGISTRY,
)
EVENTS_RECEIVED: Final = Counter(
    "mainstem_gateway_events_total",
    "Events received, by what the gateway made of them: accepted, duplicate, rejected.",
    ["source", "result"],
    registry=REGISTRY,
)
EVENT_WARNINGS: Final = Counter(
    "mainstem_gateway_event_warnings_total",
    "Accepted events with something odd: oversize, repaired, no_message_id.",
    ["source", "warning"],
    registry=REGISTRY,
)
CONNECTIONS: Final = Gauge("mainstem_gateway_connections", "Open client connections.", registry=REGISTRY)
SHED: Final = Counter(
    "mainstem_gateway_shed_total",
    "Requests refused early to stay within bounds: backlog, connections, stream_full.",
    ["why"],
    registry=REGISTRY,
)

# ---- stream
APPENDED: Final = Counter(
    "mainstem_stream_appended_records_total", "Records made durable.", registry=REGISTRY
)
APPENDED_BYTES: Final = Counter(
    "mainstem_stream_appended_bytes_total", "Bytes of records made durable.", registry=REGISTRY
)
COMMITS: Final = Counter(
    "mainstem_stream_commits_total", "Group commits (one fsync each).", registry=REGISTRY
)
COMMIT_SECONDS: Final = Histogram(
    "mainstem_stream_commit_seconds", "One group commit.", buckets=_LATENCY_BUCKETS_S, registry=REGISTRY
)
BACKLOG_BYTES: Final = Gauge(
    "mainstem_stream_backlog_bytes", "Bytes submitted and not yet durable.", registry=REGISTRY
)
STREAM_BYTES: Final = Gauge(
    "mainstem_stream_stored_bytes", "Bytes the stream holds on disk.", registry=REGISTRY
)
RETENTION_BLOCKED: Final = Gauge(
    "mainstem_stream_retention_blocked_segments",
    "Segments past their age or size that a cursor still needs.",
    registry=REGISTRY,
)
RETENTION_FORCED: Final = Counter(
    "mainstem_stream_retention_forced_records_total",
    "Records dropped by the hard limit although a cursor needed them. Any increase is a loss: alert on it.",
    ["cursor"],
    registry=REGISTRY,
)

# ---- transformations
TRANSFORMED: Final = Counter(
    "mainstem_transformation_events_total",
    "Events that went into a transformation, by result: kept, expanded, dropped, failed. "
    "One that many destinations share counts once where it runs once.",
    ["transformation", "result"],
    registry=REGISTRY,
)
TRANSFORMATION_SECONDS: Final = Histogram(
    "mainstem_transformation_batch_seconds",
    "One batch in a sandbox, waiting for a free one included.",
    ["transformation"],
    buckets=_LATENCY_BUCKETS_S,
    registry=REGISTRY,
)

SANDBOXES: Final = Gauge(
    "mainstem_transformation_sandboxes", "Sandbox processes that are alive.", registry=REGISTRY
)

# ---- pipeline and delivery
OUTCOMES: Final = Counter(
    "mainstem_outcomes_total",
    "Events settled, by destination and outcome; reason is the rule or reason class.",
    ["source", "destination", "outcome", "reason"],
    registry=REGISTRY,
)
PENDING: Final = Gauge(
    "mainstem_pending_events",
    "Records above the destination's position (lag).",
    ["destination"],
    registry=REGISTRY,
)
PARKED: Final = Gauge(
    "mainstem_parked_events", "Events parked behind a failing user.", ["destination"], registry=REGISTRY
)
ATTEMPTS: Final = Counter(
    "mainstem_delivery_attempts_total",
    "Attempts, by result: delivered, retry, rejected.",
    ["destination", "result"],
    registry=REGISTRY,
)
ACCEPTED: Final = Counter(
    "mainstem_delivery_accepted_total",
    "Deliveries, by what proves them: accepted, accepted with warning (the answer says so of this event), "
    "unverifiable (the status alone says so).",
    ["destination", "acceptance"],
    registry=REGISTRY,
)
ATTEMPT_SECONDS: Final = Histogram(
    "mainstem_delivery_attempt_seconds",
    "One attempt.",
    ["destination"],
    buckets=_LATENCY_BUCKETS_S,
    registry=REGISTRY,
)
DELIVERY_DELAY_SECONDS: Final = Histogram(
    "mainstem_delivery_delay_seconds",
    "From receivedAt to delivered.",
    ["destination"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21_600, 86_400),
    registry=REGISTRY,
)
BREAKER: Final = Gauge(
    "mainstem_breaker_open", "1 while the circuit breaker is open.", ["destination"], registry=REGISTRY
)

# ---- warehouse
WAREHOUSE_ROWS: Final = Counter(
    "mainstem_warehouse_rows_total",
    "Rows loaded, by table. The tables that every warehouse has, and the first 50 others that a process loads, have "
    "their own names as label; the rest share `other tables`. So in all metrics by table.",
    ["destination", "table"],
    registry=REGISTRY,
)
WAREHOUSE_BYTES: Final = Counter(
    "mainstem_warehouse_staged_bytes_total",
    "Bytes of the files that were loaded, by table.",
    ["destination", "table"],
    registry=REGISTRY,
)
WAREHOUSE_LOAD_SECONDS: Final = Histogram(
    "mainstem_warehouse_load_seconds",
    "One load of one table: changing it, making the file, loading it. `_count` is the number of loads.",
    ["destination", "table"],
    buckets=(0.05, 0.25, 1, 2.5, 5, 10, 30, 60, 300, 900),
    registry=REGISTRY,
)
WAREHOUSE_LAG_SECONDS: Final = Histogram(
    "mainstem_warehouse_lag_seconds",
    "From receivedAt of the oldest event of a load of a table to when it was in the table.",
    ["destination", "table"],
    buckets=(1, 5, 15, 60, 300, 900, 1800, 3600, 21_600, 86_400),
    registry=REGISTRY,
)
WAREHOUSE_FAILURES: Final = Counter(
    "mainstem_warehouse_table_failures_total",
    "Loads of a table that failed while the others went on; its rows wait.",
    ["destination", "table"],
    registry=REGISTRY,
)
WAREHOUSE_ERRORS: Final = Counter(
    "mainstem_warehouse_errors_total",
    "Loads that failed as a whole (the engine can't be reached, or failed) and are tried again.",
    ["destination"],
    registry=REGISTRY,
)

# ---- workspace
WORKSPACE_RELOADS: Final = Counter(
    "mainstem_workspace_reloads_total",
    "Snapshots offered, by result: applied, refused, unavailable.",
    ["result"],
    registry=REGISTRY,
)
WORKSPACE_AGE: Final = Gauge(
    "mainstem_workspace_last_applied_timestamp_seconds",
    "When the snapshot in use was applied.",
    registry=REGISTRY,
)
