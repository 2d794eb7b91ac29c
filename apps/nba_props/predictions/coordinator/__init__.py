"""The coordinator: opens a day's batch, has workers predict, and consolidates when all have reported."""
