"""The HTTP services: what the coordinator and the worker share, and their routes."""
