"""The PostgreSQL server that the other tests trust."""

import asyncpg

from tests.components.postgres import PostgresServer


async def _version(server: PostgresServer) -> str:
    connection = await asyncpg.connect(
        host="127.0.0.1",
        port=server.port,
        user=server.user,
        password=server.password,
        database=server.database,
    )
    try:
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()


async def test_it_answers_and_comes_back_after_a_crash(postgres_server: PostgresServer) -> None:
    assert (await _version(postgres_server)).startswith("18.")
    with PostgresServer() as server:
        assert (await _version(server)).startswith("18.")
        server.kill9()
        server.restart()
        assert (await _version(server)).startswith("18.")
