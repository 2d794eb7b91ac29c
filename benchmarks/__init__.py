"""What onerow costs, measured against the bare engine in the same run."""
