"""One rank of many, in one process: its peers' answers are invented, its own work is real."""
