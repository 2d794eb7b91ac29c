"""The warehouse in BigQuery, and the parts that are staged in it."""
