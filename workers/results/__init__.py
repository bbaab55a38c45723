"""Findings as DICOM: SR, SEG and Secondary Capture, checked before they leave."""
