"""What warm starts, appended items and other categories are worth."""
