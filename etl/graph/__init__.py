"""What connects items: co-occurrence, neighbours, interest centres (Eq. 1-5, 10)."""
