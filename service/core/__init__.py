"""The language both sides speak: settings, errors, states, identifiers, findings; no I/O."""
