"""A series becomes voxels with a place in the patient: geometry, pixels, series, resampling."""
