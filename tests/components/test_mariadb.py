"""The MariaDB server that the other tests trust."""

import pymysql

from tests.components.mariadb import MariadbServer


def _version(server: MariadbServer) -> str:
    connection = pymysql.connect(
        host="127.0.0.1", port=server.port, user=server.user, password=server.password
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT VERSION()")
        return str(cursor.fetchone()[0])


def test_it_answers_and_comes_back_after_a_crash(mariadb_server: MariadbServer) -> None:
    assert "MariaDB" in _version(mariadb_server)
    with MariadbServer() as server:
        assert "MariaDB" in _version(server)
        server.kill9()
        server.restart()
        assert "MariaDB" in _version(server)
