"""DICOMweb: searches (QIDO-RS) and retrieval (WADO-RS) of what the archive holds."""
