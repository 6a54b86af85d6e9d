"""A server that speaks BigQuery's REST API (v2), for the loader's tests: what it uses of it, over DuckDB.

`api` is HTTP and jobs, `engine` tables and statements, `script` the procedural language. Statements are parsed as
GoogleSQL by sqlglot, and run on DuckDB. Where BigQuery's documentation says what it refuses (a job's id twice, names,
DDL in a transaction, a transaction that mutates what another one has mutated), so does this; everything else is as
lenient as DuckDB. It misbehaves on request (`api.Fault`).
"""
