"""What computes and sends: jobs come in by the queue, findings and results go out."""
