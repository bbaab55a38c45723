"""Synthetic patients whose every voxel is known: for the demo, the tests and training."""
