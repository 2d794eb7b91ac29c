"""What a worker uses: staging, consolidation and the lock, under the names of the incident."""
