"""The warehouse in PostgreSQL, and the parts that are staged in it."""
