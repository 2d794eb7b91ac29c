"""BigQuery as a warehouse: every transaction is one script, run as one job, without a session."""
