import io
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mainstem.destinations.archive import Config
from tests.lake.rig import START_MS, Rig, append, event, local, names


async def test_types_and_values(tmp_path: Path) -> None:
    rig = Rig(local(tmp_path), config=Config(formats=("parquet",)))
    await append(rig.stream, [event(0)])
    await (await rig.assigned()).flush_now()
    (name,) = await names(rig.store)
    table = pq.read_table(io.BytesIO(await rig.store.get(name)))
    types = {field.name: field.type for field in table.schema}
    assert types["received_at"] == pa.timestamp("ms", tz="UTC")
    assert types["offset"] == pa.int64()
    assert types["partition"] == pa.int32()
    assert types["message_id_made"] == pa.bool_()
    assert types["raw"] == pa.string()
    (row,) = table.to_pylist()
    assert row["received_at"].timestamp() * 1000 == START_MS
    assert row["event"] == "Order Completed"
    assert row["user_id"] == "user-0"
    assert row["anonymous_id"] is None
    assert row["raw"] == event(0).raw.decode()
    assert row["reason"] is None


async def test_a_folder_of_them_is_a_hive_table(tmp_path: Path) -> None:
    rig = Rig(local(tmp_path), config=Config(formats=("parquet",)))
    await append(rig.stream, [event(number) for number in range(30)])
    await (await rig.assigned()).flush_now()
    table = pq.read_table(tmp_path / "archive" / "source=web", partitioning="hive")
    assert table.num_rows == 15
    assert set(table.column("date").to_pylist()) == {"2026-11-23"}
    assert set(table.column("hour").to_pylist()) == {6, 7, 8, 9, 10, 11}


async def test_json_lines_alone_do_not_load_pyarrow(tmp_path: Path) -> None:
    import asyncio

    code = (
        "import sys, mainstem.lake.archive_writer, mainstem.lake.reader; sys.exit('pyarrow' in sys.modules)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0
