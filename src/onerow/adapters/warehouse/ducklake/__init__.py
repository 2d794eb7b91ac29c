"""A DuckLake as warehouse: Parquet files and a SQL catalog, on one machine (SQLite) or on many (PostgreSQL).

The statements are those of the DuckDB adapter; the lake is attached under the same name to a private instance.
``warehouse`` is the port; ``lake`` attaches and tells conflicts from other errors; ``extensions`` loads what DuckDB
needs for it; ``upkeep`` compacts; ``doctor`` looks for what is known to lose rows.
"""
