"""Pages for people: the worklist, one study, one model; server-rendered, nothing from outside."""
