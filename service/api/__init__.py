"""JSON over HTTP: worklist, studies, findings, jobs, deliveries, models, events, health."""
