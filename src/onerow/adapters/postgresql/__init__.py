"""What the adapters on PostgreSQL share: connections that heal, and what the server's error codes mean."""
