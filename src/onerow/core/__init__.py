"""Pure ideas of onerow: no I/O, no clock, no chance, no threads, no logging, no SQL dialect."""
