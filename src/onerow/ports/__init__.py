"""What the services need from outside, as Protocols of a few methods and no bodies."""
