"""The Redis server that the other tests trust."""

from redis import Redis

from tests.components.redis import RedisServer


def test_what_was_set_is_got(redis_server: RedisServer) -> None:
    with Redis(port=redis_server.port, decode_responses=True) as client:
        client.hset("component:test", mapping={"a": "1"})
        assert client.hgetall("component:test") == {"a": "1"}
