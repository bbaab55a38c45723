"""Earlier studies of the same patient: fetched, registered, their lesions matched and compared."""
