"""Raw reviews and metadata -> interactions, sequences, items."""
