"""Sending results: C-STORE and STOW-RS; what a peer's answer means for the delivery."""
