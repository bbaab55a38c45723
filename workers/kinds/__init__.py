"""The generic kinds: how network output becomes findings, by the manifest alone."""
