"""The public test kit: in-memory reference adapters, a seeded simulation, conformance suites.

Nothing in production code imports it. ``memory_locks``, ``memory_parts`` and ``memory_warehouse`` are real
implementations of the ports; ``scheduler``, ``faults``, ``world`` and ``checker`` run the real protocol on
them under one seed; ``controls`` switches one protection off at a time; ``explore`` visits every
interleaving of two consolidations; ``conformance`` is what every adapter has to pass.
"""
