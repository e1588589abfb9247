"""The parts that plug into Ray Tune: searcher, scheduler, callbacks and trainable."""
