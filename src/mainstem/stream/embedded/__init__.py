"""The embedded stream: SQLite segments in a directory, shared by the processes of one machine.

Invariants
----------
1. A record is acknowledged after its transaction is on stable storage (WAL, synchronous=FULL), and is readable
   only then. One transaction per group of calls; a call is never divided between two.
2. Offsets of a partition, and sequences, are contiguous over commits and segments: each commit begins where the
   one before ended, each segment where the one before was closed.
3. One segment is active. A segment is never written after it says that it is closed, except for its index.
   Segments are dropped whole, from the oldest on.
4. Whoever appends holds `write.lock` and knows every record before; so "is it a duplicate?" and the append are
   one step for all processes.
5. What is kept outside the transactions (heads, caches, fingerprints) can be thrown away at any moment.

Files
-----
    meta.db                   partitions, cursors, books of dropped segments
    segment-000000000001.db   commits, books, and once closed: the index of deduplication hashes
    heads, slots/             which offsets are committed: a hint, mapped into every process
    write.lock, keeper.lock   one appender at a time; one process does the upkeep
    groups/<group>/           who owns which partition

A commit
--------
    commits ┌───────────────────────────────────────────────────────────────────────────────────────────┐
      sequence │ number of its first record in the whole stream: the row after the last one              │
      count │ records                                   max_ms │ newest timestamp                        │
      checksum │ XXH3 of the four below, 63 bits                                                        │
      firsts │ by partition (u32): its next offset before this commit, counted from the segment's first │
      places │ partition of record 0 │ of record 1 │ …   u16, in the order of the calls                  │
      ids   │ hash 0 │ hash 1 │ …    XXH3-64 of each deduplication key, big-endian; 0 = no key           │
      data  │ MessagePack: [[key, value, timestamp_ms, dedup_key, tally], …]                            │
            └───────────────────────────────────────────────────────────────────────────────────────────┘
    A record's `sequence` is the row's plus its index; its offset is `firsts` plus its rank among the records of
    its partition. `firsts` and `places` are in the byte order of the machine.

One row for all partitions, always the last: a commit writes its own bytes and nothing else moves. (One row per
partition, in the order of the offsets, wrote six times as much: each lands in the middle of the tree.) The
price is that a commit is decoded whole; readers at about the same place share that. An offset is found by
halving: `firsts` grow with the sequence, and are read without the data behind them.

Deduplication looks back over the records' own timestamps (`dedup_window_s`), over at most `dedup_max_ids` ids,
and never further than retention: a dropped segment's ids are gone with it.
"""

from mainstem.stream.embedded.stream import EmbeddedLimits, EmbeddedStream, open_embedded

__all__ = ["EmbeddedLimits", "EmbeddedStream", "open_embedded"]
