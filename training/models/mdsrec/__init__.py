"""MDSRec (arXiv 2412.08103): item graphs, interest centers, one channel per modality."""
