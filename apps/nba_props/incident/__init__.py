"""The night of 2026-01-11, replayed: the original design and onerow side by side."""
