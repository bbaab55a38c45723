"""Every way an instance comes in: C-STORE and STOW-RS, both through one ingest."""
