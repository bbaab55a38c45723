"""FHIR R4, read-only: what was found in a study, for systems that speak it."""
