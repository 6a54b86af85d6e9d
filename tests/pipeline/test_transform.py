"""Transformations between rules and mapping: what comes out, how often they run, who shares."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from mainstem.clock import FixedClock
from mainstem.destinations.base import MapContext, Mapped, Refusal, Request, Skip
from mainstem.events.canonical import Event
from mainstem.pipeline.errors import PlanInvalid
from mainstem.pipeline.explain import explain_one
from mainstem.pipeline.judge import judge_by
from mainstem.pipeline.outcome import Dead, Filtered, Outcome, Refused, Send
from mainstem.pipeline.plan import DestinationPlan, compile_plan
from mainstem.pipeline.transform import Chains, Transformer
from mainstem.transformations.base import SandboxUnavailable
from mainstem.transformations.ready.catalog import validate_settings
from mainstem.workspace.model import Connection, Filter, Transformation, Workspace
from tests.pipeline.sandboxes import InProcess, Metadata, version
from tests.pipeline.world import DESTINATION, RECEIVED_MS, SOURCE, MapFunction, spec, write_json
from tests.pipeline.world import event as plain_event

Message = dict[str, Any]


def event(number: int = 0, **message: Any) -> Event:
    made = plain_event({"messageId": f"m-{number}", **message})
    made.offset = number
    return made


def world(
    *versions: Transformation,
    by_connection: Sequence[str] = (),
    by_destination: Sequence[str] = (),
    destinations: Sequence[str] = ("d1",),
    filters: Sequence[Filter] = (),
) -> Workspace:
    return Workspace(
        id="w",
        version="1",
        sources=(SOURCE,),
        destinations=tuple(
            msgspec.structs.replace(DESTINATION, id=key, transformations=tuple(by_destination))
            for key in destinations
        ),
        connections=tuple(
            Connection(
                source_id=SOURCE.id,
                destination_id=key,
                filters=tuple(filters),
                transformations=tuple(by_connection),
            )
            for key in destinations
        ),
        transformations=versions,
    )


def one(name: str, **more: Any) -> Workspace:
    """One destination behind one transformation."""
    return world(version(name), by_connection=[f"{name}@1"], **more)


def plans(snapshot: Workspace, mapping: MapFunction | None = write_json) -> list[DestinationPlan]:
    chains = Chains(snapshot)
    return [compile_plan(snapshot, item, spec(mapping), chains) for item in snapshot.destinations]


async def judged(
    snapshot: Workspace, sandboxes: InProcess, *events: Event, mapping: MapFunction | None = write_json
) -> Sequence[Outcome]:
    (plan,) = plans(snapshot, mapping)
    return await judge_by(plan, Transformer(sandboxes, FixedClock()))(events)


def sent(outcome: Outcome) -> list[Message]:
    """The messages that a Send's requests carry."""
    assert isinstance(outcome, Send), outcome
    requests = [payload for payload in outcome.payloads if isinstance(payload, Request)]
    assert len(requests) == len(outcome.payloads)
    return [msgspec.json.decode(request.body)["message"] for request in requests]


# ---------------------------------------------------------------- what comes out


async def test_the_request_carries_what_the_code_made_and_books_go_by_what_was_received() -> None:
    def rename(message: Message, _: Metadata) -> Message:
        return {**message, "userId": "someone else", "event": "Renamed"}

    received = event()
    (outcome,) = await judged(one("rename"), InProcess(rename=rename), received)
    assert isinstance(outcome, Send)
    assert outcome.event is received
    assert [(m["userId"], m["event"], m["messageId"]) for m in sent(outcome)] == [
        ("someone else", "Renamed", "m-0")
    ]
    assert outcome.transformed is not None
    (part,) = outcome.transformed
    assert (part.user_id, part.name, part.offset, part.raw) == (
        "someone else",
        "Renamed",
        0,
        received.raw,
    )
    assert received.message["event"] == "Order Completed"


async def test_dropped_failed_and_kept_events_of_one_batch() -> None:
    def code(message: Message, _: Metadata) -> Message | None:
        match message["messageId"]:
            case "m-0":
                return None
            case "m-1":
                raise ValueError("no e-mail address")
        return message

    events = [event(number) for number in range(3)]
    outcomes = await judged(one("pick"), InProcess(pick=code), *events)
    assert outcomes[:2] == [
        Filtered("dropped by transformation pick"),
        Dead("transformation pick failed", "ValueError: no e-mail address"),
    ]
    assert [message["messageId"] for message in sent(outcomes[2])] == ["m-2"]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (["m-0", "m-0", "m-0"], ["m-0", "m-0:1", "m-0:2"]),
        (["mine", "mine", "m-0"], ["mine", "m-0", "m-0:2"]),
        ([None, "", 7], ["m-0", "m-0:1", "7"]),
        (["m-0:1", "m-0", "m-0"], ["m-0:1", "m-0", "m-0:2"]),
        (["m-0", "m-0:2", "m-0"], ["m-0", "m-0:2", "m-0:2:2"]),
        (["theirs"], ["theirs"]),
    ],
)
async def test_every_part_of_an_event_has_an_id_that_a_retry_gives_it_again(
    given: list[Any], made: list[str]
) -> None:
    def expand(message: Message, _: Metadata) -> list[Message]:
        return [{**message, "messageId": message_id} for message_id in given]

    for _ in range(2):
        (outcome,) = await judged(one("expand"), InProcess(expand=expand), event())
        assert [message["messageId"] for message in sent(outcome)] == made


async def test_the_connections_come_before_the_destinations_and_feed_them() -> None:
    def twice(message: Message, _: Metadata) -> list[Message]:
        return [message, {**message, "part": 2}]

    def number(message: Message, metadata: Metadata) -> Message | None:
        assert metadata["messageId"] == message["messageId"]
        return None if message["event"] == "Unwanted" else {**message, "seen": message.get("part", 1)}

    snapshot = world(
        version("twice"), version("number"), by_connection=["twice@1"], by_destination=["number@1"]
    )
    sandboxes = InProcess(twice=twice, number=number)
    outcomes = await judged(snapshot, sandboxes, event(0), event(1, event="Unwanted"))
    assert [(m["messageId"], m["seen"]) for m in sent(outcomes[0])] == [("m-0", 1), ("m-0:1", 2)]
    assert outcomes[1] == Filtered("dropped by transformation number")
    assert sandboxes.runs == [
        ("twice@1", ["m-0", "m-1"]),
        ("number@1", ["m-0", "m-0:1", "m-1", "m-1:1"]),
    ]
    # Every part is seeded for itself, and the same every time.
    assert [one.seed for one in sandboxes.given] == ["m-0", "m-1", "m-0:0", "m-0:1", "m-1:0", "m-1:1"]
    assert {one.now_ms for one in sandboxes.given} == {RECEIVED_MS}


async def test_one_failing_part_takes_the_others_with_it() -> None:
    def code(message: Message, _: Metadata) -> Message:
        if message["part"]:
            raise ValueError("the second")
        return message

    snapshot = world(version("split"), version("check"), by_connection=["split@1", "check@1"])
    sandboxes = InProcess(split=lambda m, _: [{**m, "part": 0}, {**m, "part": 1}], check=code)
    assert await judged(snapshot, sandboxes, event()) == [
        Dead("transformation check failed", "ValueError: the second")
    ]


async def test_rules_see_the_event_as_received_and_types_as_transformed() -> None:
    def to_identify(message: Message, _: Metadata) -> Message:
        return {**message, "type": "identify", "event": "Unwanted"}

    snapshot = one(
        "change",
        filters=[Filter(name="names", deny=("Unwanted",)), Filter(name="on", types=("track", "odd"))],
    )
    sandboxes = InProcess(change=to_identify)
    outcomes = await judged(snapshot, sandboxes, event(), event(1, event="Unwanted"), event(2, type="odd"))
    # A type that the destination does not take is taken if the code makes another of it.
    assert [message["type"] for message in sent(outcomes[0]) + sent(outcomes[2])] == ["identify"] * 2
    assert outcomes[1] == Filtered("filter:names", "name 'Unwanted' is denied")
    assert sandboxes.runs == [("change@1", ["m-0", "m-2"])]

    outcomes = await judged(one("odd"), InProcess(odd=lambda m, _: {**m, "type": "odd"}), event())
    assert outcomes == [Filtered("message type not supported", "odd")]
    outcomes = await judged(one("odd"), InProcess(odd=lambda m, _: {"no": "type"}), event())
    assert outcomes == [Filtered("message type not supported", "")]


async def test_parts_that_the_mapping_skips_are_left_out_and_one_that_it_refuses_is_the_end() -> None:
    def mapping(sent: Event, _: MapContext) -> Mapped:
        match sent.message["part"]:
            case "skip":
                return Skip("no call")
            case "refuse":
                return Refusal("no address")
            case "bug":
                raise ZeroDivisionError
        return (Request("POST", "https://x.test/", (), msgspec.json.encode({"message": sent.message})),)

    async def outcome_of(*parts: str) -> Outcome:
        sandboxes = InProcess(split=lambda m, _: [{**m, "part": part} for part in parts])
        (outcome,) = await judged(one("split"), sandboxes, event(), mapping=mapping)
        return outcome

    kept = await outcome_of("a", "skip", "b")
    assert [message["part"] for message in sent(kept)] == ["a", "b"]
    assert isinstance(kept, Send)
    assert kept.transformed is not None
    assert [part.message["part"] for part in kept.transformed] == ["a", "b"]
    assert await outcome_of("skip", "skip") == Filtered("no call")
    assert await outcome_of("a", "refuse", "b") == Dead("no address")
    bug = await outcome_of("a", "bug")
    assert isinstance(bug, Dead)
    assert bug.reason.startswith("the mapping of WEBHOOK failed: ZeroDivisionError")


async def test_files_are_given_the_events() -> None:
    sandboxes = InProcess(split=lambda m, _: [{**m, "part": 1}, {**m, "type": "odd"}, {**m, "part": 2}])
    (outcome,) = await judged(one("split"), sandboxes, event(), mapping=None)
    assert isinstance(outcome, Send)
    assert outcome.payloads == ()
    assert [part.message["part"] for part in outcome.transformed or ()] == [1, 2]


async def test_what_the_gateway_refused_meets_no_code() -> None:
    sandboxes = InProcess(any=lambda m, _: m)
    refused = plain_event(kind="rejected", reason="type: unknown")
    assert await judged(one("any"), sandboxes, refused) == [Refused("type: unknown")]
    assert not sandboxes.runs


async def test_ready_made_ones_run_here_in_the_same_chain() -> None:
    ready = Transformation(
        id="names@1",
        name="names",
        version="1",
        kind="ready",
        ready="drop_event_names",
        settings=_ready_settings("drop_event_names", {"names": ["Unwanted"]}),
    )
    snapshot = world(ready, version("mark"), by_connection=["names@1", "mark@1"])
    sandboxes = InProcess(mark=lambda m, _: {**m, "marked": True})
    outcomes = await judged(snapshot, sandboxes, event(0), event(1, event="Unwanted"))
    assert sent(outcomes[0])[0]["marked"]
    assert outcomes[1] == Filtered("dropped by transformation names")
    assert sandboxes.runs == [("mark@1", ["m-0"])]


def _ready_settings(name: str, raw: Mapping[str, Any]) -> Any:
    result = validate_settings(name, raw)
    assert not result.errors
    return result.config


def test_a_transformation_that_is_not_there_is_a_plan_that_cannot_be_made() -> None:
    snapshot = world(by_connection=["gone@3"])
    with pytest.raises(PlanInvalid, match="source shop: transformation gone@3 is not in the workspace"):
        plans(snapshot)
    unknown = Transformation(id="x@1", name="x", version="1", kind="ready", ready="no_such")
    with pytest.raises(PlanInvalid, match="there is no ready-made `no_such`"):
        plans(world(unknown, by_connection=["x@1"]))


# ---------------------------------------------------------------- batches, once for all


async def test_batches_are_no_larger_than_the_version_allows() -> None:
    snapshot = world(version("same", batch_events=4), by_connection=["same@1"])
    sandboxes = InProcess(same=lambda m, _: m)
    events = [event(number) for number in range(10)]
    outcomes = await judged(snapshot, sandboxes, *events)
    assert [sent(outcome)[0]["messageId"] for outcome in outcomes] == [f"m-{number}" for number in range(10)]
    assert [len(batch) for _, batch in sandboxes.runs] == [4, 4, 2]


def shared(*names: str) -> Workspace:
    """Two destinations behind the same transformations."""
    return world(
        *(version(name) for name in names),
        by_connection=[f"{name}@1" for name in names],
        destinations=("d1", "d2"),
    )


async def test_a_version_runs_once_per_event_for_all_destinations() -> None:
    first, second = plans(shared("same", "again"))
    sandboxes = InProcess(same=lambda m, _: m, again=lambda m, _: {**m, "again": True})
    transformer = Transformer(sandboxes, FixedClock())
    events = [event(number) for number in range(5)]
    sandboxes.open.clear()
    both = asyncio.gather(judge_by(first, transformer)(events[:4]), judge_by(second, transformer)(events[1:]))
    while sandboxes.waiting < 2:
        await asyncio.sleep(0)
    sandboxes.open.set()
    one, two = await both
    assert [sent(outcome)[0]["again"] for outcome in (*one, *two)] == [True] * 8
    ran = [message_id for name, batch in sandboxes.runs if name == "same@1" for message_id in batch]
    assert sorted(ran) == [f"m-{number}" for number in range(5)]
    # Later too, for who comes behind.
    runs = len(sandboxes.runs)
    assert sent((await judge_by(second, transformer)(events[:1]))[0])[0]["again"]
    assert len(sandboxes.runs) == runs


async def test_code_that_looks_at_the_destination_runs_for_each() -> None:
    def code(message: Message, metadata: Metadata) -> Message:
        return {**message, "to": metadata["destinationId"]}

    first, second = plans(shared("look", "behind"))
    sandboxes = InProcess(look=code, behind=lambda m, _: m)
    transformer = Transformer(sandboxes, FixedClock())
    for number in range(2):
        one, two = await asyncio.gather(
            *(judge_by(plan, transformer)([event(number)]) for plan in (first, second))
        )
        assert [sent(one[0])[0]["to"], sent(two[0])[0]["to"]] == ["d1", "d2"]
    # What stands behind such code has other inputs too.
    assert [name for name, _ in sandboxes.runs].count("behind@1") == 4


async def test_only_those_with_the_same_beginning_share() -> None:
    snapshot = world(version("mark"), version("same"), destinations=("d1", "d2", "d3"))
    ways = (("mark@1", "same@1"), ("same@1",), ("same@1",))
    snapshot = msgspec.structs.replace(
        snapshot,
        connections=tuple(
            msgspec.structs.replace(connection, transformations=chain)
            for connection, chain in zip(snapshot.connections, ways, strict=True)
        ),
    )
    sandboxes = InProcess(mark=lambda m, _: {**m, "marked": True}, same=lambda m, _: m)
    transformer = Transformer(sandboxes, FixedClock())
    outcomes = [(await judge_by(plan, transformer)([event()]))[0] for plan in plans(snapshot)]
    assert ["marked" in sent(outcome)[0] for outcome in outcomes] == [True, False, False]
    assert [name for name, _ in sandboxes.runs] == ["mark@1", "same@1", "same@1"]


async def test_another_snapshot_shares_nothing_with_the_last() -> None:
    sandboxes = InProcess(same=lambda m, _: m)
    transformer = Transformer(sandboxes, FixedClock())
    for _ in range(2):
        for plan in plans(shared("same")):
            await judge_by(plan, transformer)([event()])
    assert len(sandboxes.runs) == 2


async def test_who_goes_away_does_not_take_the_result_from_who_waits() -> None:
    first, second = plans(shared("same"))
    sandboxes = InProcess(same=lambda m, _: m)
    transformer = Transformer(sandboxes, FixedClock())
    sandboxes.open.clear()
    going = asyncio.ensure_future(judge_by(first, transformer)([event()]))
    while not sandboxes.waiting:
        await asyncio.sleep(0)
    staying = asyncio.ensure_future(judge_by(second, transformer)([event()]))
    await asyncio.sleep(0)
    going.cancel()
    await asyncio.gather(going, return_exceptions=True)
    sandboxes.open.set()
    assert sent((await staying)[0])[0]["messageId"] == "m-0"
    assert len(sandboxes.runs) == 1


async def test_all_who_wait_are_told_that_the_sandbox_is_unavailable_and_may_ask_again() -> None:
    both = plans(shared("same"))
    sandboxes = InProcess(same=lambda m, _: m)
    sandboxes.unavailable = "no landlock"
    transformer = Transformer(sandboxes, FixedClock())
    told = await asyncio.gather(
        *(judge_by(plan, transformer)([event()]) for plan in both), return_exceptions=True
    )
    assert [type(error) for error in told] == [SandboxUnavailable] * 2
    assert transformer.troubles == {"same@1": "no landlock"}
    sandboxes.unavailable = ""
    for plan in both:
        assert sent((await judge_by(plan, transformer)([event()]))[0])
    assert transformer.troubles == {}


async def test_closing_tells_those_who_wait() -> None:
    first, _ = plans(shared("same"))
    sandboxes = InProcess(same=lambda m, _: m)
    sandboxes.open.clear()
    transformer = Transformer(sandboxes, FixedClock())
    waiting = asyncio.ensure_future(judge_by(first, transformer)([event()]))
    while not sandboxes.waiting:
        await asyncio.sleep(0)
    await transformer.close()
    with pytest.raises(SandboxUnavailable, match="stopping"):
        await waiting


async def test_new_versions_are_made_ready_and_known_ones_left() -> None:
    sandboxes = InProcess()
    transformer = Transformer(sandboxes, FixedClock(), most_warm=2)
    await transformer.warm_up([version("a"), version("b")], timeout_s=5)
    await transformer.warm_up([version("b"), version("c"), version("d"), version("e")], timeout_s=5)
    assert sorted(sandboxes.prepared) == ["a@1", "b@1", "c@1", "d@1"]
    sandboxes.unavailable = "no seccomp"
    await transformer.warm_up([version("f")], timeout_s=5)
    assert transformer.troubles == {"f@1": "no seccomp"}
    await transformer.warm_up([], timeout_s=5)
    assert transformer.troubles == {}


# ---------------------------------------------------------------- for people


async def test_explanations_say_what_each_transformation_did() -> None:
    def check(message: Message, _: Metadata) -> Message:
        if message["event"] == "Broken":
            raise ValueError("line 3")
        return message

    snapshot = world(
        version("same"),
        version("mark"),
        version("split"),
        version("check"),
        by_connection=["same@1", "mark@1", "split@1", "check@1"],
    )
    sandboxes = InProcess(
        same=lambda m, _: m,
        mark=lambda m, _: {**m, "marked": True},
        split=lambda m, _: [m, {**m, "part": 2}] if m["event"] != "Unwanted" else None,
        check=check,
    )
    transformer = Transformer(sandboxes, FixedClock())
    (plan,) = plans(snapshot)

    async def line(**message: Any) -> dict[str, Any]:
        explained = await explain_one(event(**message), plan, transformer)
        decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(explained))
        return decoded

    logs = ["Log: ran"]
    same = {"transformation": "same@1", "result": "unchanged", "events": 1, "logs": logs}
    mark = {"transformation": "mark@1", "result": "changed", "events": 1, "logs": logs}
    split = {"transformation": "split@1", "result": "expanded", "events": 2, "logs": logs}
    got = await line()
    assert got["transformations"] == [
        same,
        mark,
        split,
        {"transformation": "check@1", "result": "unchanged", "events": 2, "logs": logs},
    ]
    assert [request["body"]["message"]["messageId"] for request in got["requests"]] == ["m-0", "m-0:1"]

    got = await line(event="Unwanted")
    assert (got["outcome"], got["reason"]) == ("filtered", "dropped by transformation split")
    assert got["transformations"][2]["result"] == "dropped"

    got = await line(event="Broken")
    assert (got["outcome"], got["reason"]) == ("dead", "transformation check failed")
    assert got["detail"] == "ValueError: line 3"
    assert got["transformations"][3] == {
        "transformation": "check@1",
        "result": "failed",
        "events": 0,
        "reason": "ValueError: line 3",
        "logs": logs,
    }
