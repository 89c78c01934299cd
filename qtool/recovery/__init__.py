"""Steps that give accuracy back without training: a plan and a few samples in, a better plan out."""
