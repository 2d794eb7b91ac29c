"""Warehouses, one folder an engine."""
