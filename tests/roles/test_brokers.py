"""Events all the way to brokers: from the log through the mapping to what Redis and Kinesis hold."""

import base64
import json
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from mainstem.testing.sink import Answer, Received, Sink
from tests.components.redis import RedisServer
from tests.roles.rig import rig, track, workspace


def _broker(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"id": "hook", "name": "hook", "type": kind, "start": "earliest", "config": config}


async def test_traits_reach_redis(redis_server: RedisServer, tmp_path: Path) -> None:
    config = {"address": redis_server.address, "prefix": "roles"}
    async with rig(workspace(_broker("redis", config)), tmp_path) as running:
        await running.worker()
        people = [
            {"type": "identify", "messageId": f"m{n}", "userId": "ann", "traits": {"n": n}} for n in range(3)
        ]
        await running.send([*people, track("ann", 1)])
        account = await running.settled(received=4)
    assert (account.delivered, account.filtered, account.dead) == (3, 1, 0)
    client: Any = Redis(port=redis_server.port, decode_responses=True)
    assert await client.hgetall("roles:user:ann") == {"n": "2"}
    await client.aclose()


async def test_records_reach_kinesis_in_order_though_some_fail(tmp_path: Path) -> None:
    taken: list[str] = []
    failing = {"ann-2", "bob-1"}

    def kinesis(request: Received) -> Answer:
        results: list[dict[str, str]] = []
        for record in request.json()["Records"]:
            message_id = json.loads(base64.b64decode(record["Data"]))["messageId"]
            if message_id in failing:
                failing.remove(message_id)
                results.append({"ErrorCode": "InternalFailure", "ErrorMessage": "later"})
            else:
                taken.append(message_id)
                results.append({"SequenceNumber": str(len(taken)), "ShardId": "shardId-000000000000"})
        failed = sum("ErrorCode" in result for result in results)
        return Answer(200, body=json.dumps({"FailedRecordCount": failed, "Records": results}).encode())

    async with Sink() as sink:
        sink.script = kinesis
        config = {
            "region": "eu-west-1",
            "stream": "events",
            "accessKeyID": "AKIDEXAMPLE",
            "accessKey": "secret-1234",
            "endpoint": sink.url,
        }
        async with rig(workspace(_broker("kinesis", config)), tmp_path) as running:
            await running.worker()
            await running.send([track(user, n) for n in range(1, 6) for user in ("ann", "bob", "eve")])
            account = await running.settled(received=15)
    assert (account.delivered, account.dead) == (15, 0)
    assert sorted(taken) == sorted(f"{user}-{n}" for user in ("ann", "bob", "eve") for n in range(1, 6))
    for user in ("ann", "bob", "eve"):
        assert [one for one in taken if one.startswith(user)] == [f"{user}-{n}" for n in range(1, 6)]
