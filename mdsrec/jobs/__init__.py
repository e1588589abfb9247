"""Jobs that share storage: leases of what a job writes, fingerprints of what it reads."""
