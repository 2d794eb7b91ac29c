"""One folder or file for each engine; drivers are imported nowhere else."""
