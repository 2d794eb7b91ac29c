"""The protocol and the work around it, written against ports only."""
