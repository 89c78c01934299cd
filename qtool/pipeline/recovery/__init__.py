"""Steps that give accuracy back without training: on the float graph before calibration, or on the plan after it."""
