"""What talks to people and programs."""
