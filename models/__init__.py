"""Model packages (data), synthetic patients and how the shipped networks were trained."""
