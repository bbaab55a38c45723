"""What is measured of a model: sensitivity, overlap, calibration and their reports."""
