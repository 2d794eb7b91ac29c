"""What the BigQuery warehouse and its staging share: jobs, tables, names, and what the service's errors mean."""
