"""The embedded stream: SQLite segments in a directory, shared by the processes of one machine.

Invariants
----------
1. A record is acknowledged after its transaction is on stable storage (WAL, synchronous=FULL), and is readable
   only then. One transaction per group of calls; a call is never divided between two.
2. Offsets of a partition are contiguous over batches and segments: each batch begins where the one before
   ended, each segment where the one before was closed.
3. One segment is active. A segment is never written after it says that it is closed, except for its index.
   Segments are dropped whole, from the oldest on.
4. Whoever appends holds `write.lock` and knows every record before; so "is it a duplicate?" and the append are
   one step for all processes.
5. What is kept outside the transactions (heads, caches, fingerprints) can be thrown away at any moment.

Files
-----
    meta.db                   partitions, cursors, books of dropped segments
    segment-000000000001.db   batches, books, and once closed: the index of deduplication hashes
    heads, slots/             which offsets are committed: a hint, mapped into every process
    write.lock, keeper.lock   one appender at a time; one process does the upkeep
    groups/<group>/           who owns which partition

A record
--------
    batches ┌───────────────────────────────────────────────────────────────────────────────────────────┐
      id    │ partition << 48 | offset of the first record                                               │
      count │ records                                   min_ms, max_ms │ timestamps of the whole group  │
      sequence, span │ number of the group's first record in the whole stream; records in the group     │
      checksum │ XXH3 of ids and data, 63 bits                                                          │
      ids   │ hash 0 │ hash 1 │ …    XXH3-64 of each deduplication key, little-endian; 0 = no key        │
      data  │ MessagePack: [ places, [[key, value, timestamp_ms, dedup_key, tally], …] ]                │
            └───────────────────────────────────────────────────────────────────────────────────────────┘
    places: each record's index in the group (u32; empty when they are 0, 1, 2 …); sequence + place is the
    record's `sequence`.

Deduplication looks back over the records' own timestamps (`dedup_window_s`), over at most `dedup_max_ids` ids,
and never further than retention: a dropped segment's ids are gone with it.
"""

from mainstem.stream.embedded.stream import EmbeddedLimits, EmbeddedStream, open_embedded

__all__ = ["EmbeddedLimits", "EmbeddedStream", "open_embedded"]
