"""Measurements of growth: time, memory and bytes of every stage at several sizes of a catalogue."""
