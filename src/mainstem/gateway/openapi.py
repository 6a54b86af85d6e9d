"""The OpenAPI 3.1 document of the gateway, served at `/openapi.json`.

It says what is true, not what would be tidy: bodies are read by content, unknown fields are kept, and most
fields of an event may be of any type. `tests/gateway/test_openapi.py` fuzzes the gateway against it.
"""

from typing import Any, Final

from mainstem.gateway.settings import GatewaySettings

_EVENTS: Final = ("identify", "track", "page", "screen", "group", "alias", "merge")
_SHORT: Final = {"i": "identify", "t": "track", "p": "page", "s": "screen", "g": "group", "a": "alias"}

_SECURITY: Final[list[dict[str, list[str]]]] = [{"basic": []}, {"header": []}, {"query": []}]

_EVENT: Final = {
    "type": "object",
    "description": "One event of the Segment spec. userId or anonymousId must be there; everything else is optional "
    "and unknown fields are kept.",
    "properties": {
        "userId": {"type": ["string", "number", "null"], "maxLength": 1024},
        "anonymousId": {"type": ["string", "number", "null"], "maxLength": 1024},
        "messageId": {
            "type": ["string", "null"],
            "maxLength": 1024,
            "description": "Deduplicates; made when absent.",
        },
        "timestamp": {"type": ["string", "null"]},
        "originalTimestamp": {"type": ["string", "null"]},
        "sentAt": {"type": ["string", "null"]},
        "event": {"type": ["string", "null"]},
        "properties": {"type": ["object", "null"]},
        "traits": {"type": ["object", "null"]},
        "context": {"type": ["object", "null"]},
        "integrations": {"type": ["object", "null"]},
        "writeKey": {"type": ["string", "null"], "description": "Authenticates when nothing else does."},
    },
}


def document(settings: GatewaySettings) -> dict[str, Any]:
    """Return the document for a gateway with these settings."""
    paths: dict[str, Any] = {}
    for kind in _EVENTS:
        paths[f"/v1/{kind}"] = {"post": _collect(kind, f"One {kind} event.", "Event")}
        paths[f"/api/s/{kind}"] = {
            "post": _collect(f"jitsu_{kind}", f"One {kind} event of @jitsu/js.", "Event")
        }
        paths[f"/api/s/s2s/{kind}"] = {
            "post": _collect(f"jitsu_s2s_{kind}", f"One {kind} event of a server with @jitsu/js.", "Event")
        }
    for short, kind in _SHORT.items():
        paths[f"/v1/{short}"] = {"post": _collect(f"short_{kind}", f"Like /v1/{kind}.", "Event")}
    for path, words in (
        ("/v1/batch", "Many events, each with its own type."),
        ("/v1/b", "Like /v1/batch."),
        ("/v1/import", "Like /v1/batch, for history: the events say when they happened."),
        ("/beacon/v1/batch", "Like /v1/batch, for navigator.sendBeacon: the key is in the query."),
    ):
        paths[path] = {"post": _collect(path.strip("/").replace("/", "_"), words, "Batch")}
    for kind in ("track", "page"):
        paths[f"/pixel/v1/{kind}"] = {"get": _pixel(kind)}
    paths["/v1/webhook"] = {
        "post": {
            **_collect("webhook", "Any JSON or form, made an event by the source's mapping.", "Anything"),
            "requestBody": {
                "content": {
                    "application/json": {"schema": {}},
                    "application/x-www-form-urlencoded": {"schema": {"type": "object"}},
                }
            },
        },
        "get": {
            "operationId": "webhook_get",
            "summary": "The query, made an event by the source's mapping.",
            "security": _SECURITY,
            "responses": _collect_answers(),
        },
    }
    paths["/v1/m"] = {
        "post": {
            "operationId": "metrics",
            "summary": "Metrics of analytics-next: taken and forgotten.",
            "responses": {"200": _json("Taken.", "Success"), "413": _json("Too large.", "Error")},
        }
    }
    paths["/v1/projects/{writeKey}/settings"] = {"get": _settings("segment_settings")}
    paths["/projects/{writeKey}/settings"] = {"get": _settings("segment_mobile_settings")}
    paths["/sourceConfig"] = {
        "get": {
            "operationId": "source_config",
            "summary": "The configuration of RudderStack SDKs.",
            "security": _SECURITY,
            "responses": {
                "200": _json("The source.", "Document"),
                "400": _json("The write key is unknown.", "Error"),
                "401": _json("There is no write key.", "Error"),
            },
        }
    }
    for path, words in (("/health", "Whether the gateway works."), ("/ready", "Whether to send it traffic.")):
        paths[path] = {
            "get": {
                "operationId": path.strip("/"),
                "summary": words,
                "responses": {"200": _json("It does.", "Document"), "503": _json("What does not.", "Error")},
            }
        }
    for path in ("/version", "/openapi.json"):
        paths[path] = {
            "get": {
                "operationId": path.strip("/").partition(".")[0],
                "summary": "About this server.",
                "responses": {"200": _json("The document.", "Document")},
            }
        }
    paths["/sdk/mainstem.js"] = {
        "get": {
            "operationId": "sdk_script",
            "summary": "The JavaScript SDK for script tags: ETag, Cache-Control, gzip and br.",
            "responses": {
                "200": {"description": "The script.", "content": {"text/javascript": {}}},
                "304": {"description": "As in If-None-Match."},
            },
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Mainstem gateway",
            "version": "1",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "The wire surface of Segment, RudderStack and Jitsu. 200 is answered when the events are on "
            "stable storage. Bodies are read by content, not by Content-Type, with Content-Encoding gzip, deflate, br "
            f"or zstd; up to {settings.max_request_bytes} bytes a request, decoded, and {settings.max_event_bytes} an "
            "event. Every path also works with a trailing slash.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The write key as user, no password.",
                },
                "header": {"type": "apiKey", "in": "header", "name": "X-Write-Key"},
                "query": {"type": "apiKey", "in": "query", "name": "writeKey"},
            },
            "schemas": {
                "Event": _EVENT,
                "Batch": {
                    "type": "object",
                    "required": ["batch"],
                    "properties": {
                        "batch": {"type": "array", "items": {"$ref": "#/components/schemas/TypedEvent"}},
                        "sentAt": {"type": ["string", "null"]},
                        "context": {
                            "type": ["object", "null"],
                            "description": "Under each event's own context.",
                        },
                        "integrations": {"type": ["object", "null"]},
                        "writeKey": {"type": ["string", "null"]},
                    },
                },
                "TypedEvent": {
                    "allOf": [
                        {"$ref": "#/components/schemas/Event"},
                        {"required": ["type"], "properties": {"type": {"enum": list(_EVENTS)}}},
                    ]
                },
                "Anything": {},
                "Document": {"type": "object"},
                "Success": {
                    "type": "object",
                    "required": ["success", "ok"],
                    "properties": {
                        "success": {"const": True},
                        "ok": {"const": True},
                        "accepted": {"type": "integer", "minimum": 1},
                        "rejected": {"type": "array", "items": {"$ref": "#/components/schemas/Rejection"}},
                    },
                },
                "Rejection": {
                    "type": "object",
                    "required": ["index", "code", "message"],
                    "properties": {
                        "index": {"type": "integer", "minimum": 0},
                        "code": {"type": "string"},
                        "message": {"type": "string"},
                    },
                },
                "Error": {
                    "type": "object",
                    "required": ["code", "message"],
                    "properties": {
                        "code": {"type": "string"},
                        "message": {"type": "string"},
                        "rejected": {"type": "array", "items": {"$ref": "#/components/schemas/Rejection"}},
                    },
                },
            },
        },
    }


def _json(words: str, schema: str) -> dict[str, Any]:
    return {
        "description": words,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _retry(words: str) -> dict[str, Any]:
    header = {"schema": {"type": "integer", "minimum": 1}, "required": True}
    return {**_json(words, "Error"), "headers": {"Retry-After": header}}


def _collect_answers() -> dict[str, Any]:
    return {
        "200": _json("On stable storage, but for the events listed as rejected.", "Success"),
        "400": _json("Nothing in it could be accepted.", "Error"),
        "401": _json("There is no write key, or it is unknown.", "Error"),
        "403": _json("The browser's origin is not one of the source's.", "Error"),
        "404": _json("The source is disabled.", "Error"),
        "413": _json("Larger than the limit.", "Error"),
        "429": _retry("More than the source's rate limit."),
        "503": _retry("Overloaded or without space: nothing was taken, send again."),
    }


def _collect(name: str, words: str, schema: str) -> dict[str, Any]:
    reference = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    return {
        "operationId": name,
        "summary": words,
        "security": _SECURITY,
        "requestBody": {"required": True, "content": {"application/json": reference}},
        "responses": _collect_answers(),
    }


def _pixel(kind: str) -> dict[str, Any]:
    names = ("writeKey", "userId", "anonymousId", "event" if kind == "track" else "name")
    return {
        "operationId": f"pixel_{kind}",
        "summary": f"A {kind} in the query; nested fields with dots.",
        "parameters": [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names],
        "responses": {"200": {"description": "Always.", "content": {"image/gif": {}}}},
    }


def _settings(name: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": "The settings of Segment SDKs.",
        "parameters": [
            {"name": "writeKey", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        ],
        "responses": {
            "200": _json("The settings.", "Document"),
            "401": _json("The write key is unknown.", "Error"),
            "404": _json("The source is disabled.", "Error"),
        },
    }
