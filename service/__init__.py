"""What listens, remembers and shows: instances come in, jobs go out, findings are read."""
