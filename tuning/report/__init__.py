"""What a finished sweep leaves: its winner, its tables and its page."""
