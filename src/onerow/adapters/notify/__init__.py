"""Receivers of alerts, over HTTP. Their addresses are secrets: they stand in no message, no error and no log."""
