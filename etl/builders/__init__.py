"""Builders: each makes a group of tables from its inputs, or finds them already built."""
