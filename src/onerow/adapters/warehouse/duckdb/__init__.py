"""DuckDB file as warehouse: one machine, many processes, one at a time has the file.

``warehouse`` is the port; ``merge`` runs the steps of a plan; ``merge.sql`` and ``control.sql`` are the
statements, ``sql`` and ``statements`` render them for a table; ``database`` opens the file late and closes it early.
"""
