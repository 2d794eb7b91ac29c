"""Where parts wait."""
