"""The incident that onerow exists for, on one machine."""
