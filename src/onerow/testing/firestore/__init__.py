"""A double of Firestore: a gRPC server that speaks the real client library's protocol, for tests.

It serves the client's own protocol types (``google.cloud.firestore_v1.types``) with preconditions, atomic batches,
transactions (optimistic and pessimistic), server timestamps, queries and listeners. Times are the server's: every
commit has a later one than all before, in microseconds. Each behaviour cites the documented rule that it follows.

It can lose, delay and repeat replies, go deaf, refuse permissions, and switch preconditions off (a negative control),
through a small control surface (``control.Control``). ``python -m onerow.testing.firestore`` runs it as a process of
its own (``process.Double`` starts one).

What it does not have: composite index requirements, contention limits, quotas, security rules, TTL policies,
pipelines, aggregations, the ``Write`` stream. What it does not know it refuses; it never answers something near.

Sources: https://firebase.google.com/docs/firestore/reference/rpc/google.firestore.v1 (the protocol; each message's
comments stand in the client library's types too) and the pages that the modules name.
"""
