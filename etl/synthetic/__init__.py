"""A small synthetic catalogue in the raw format of edition 2018."""
