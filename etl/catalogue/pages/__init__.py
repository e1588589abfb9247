"""Plain text from the markup, styles and scripts of product pages."""
