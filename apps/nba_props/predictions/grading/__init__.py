"""After the games: predictions against results, what that says of each system, alerts and repairs."""
