"""From instances to work: when a study is complete, which models suit it, who gets the results."""
