"""What a catalogue of any size needs, by arithmetic: memory, bytes sent, flops and seconds."""
