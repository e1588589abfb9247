"""A small synthetic catalog in the raw format of edition 2018."""
