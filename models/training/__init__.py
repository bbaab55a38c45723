"""How the shipped networks were trained; the product never imports it."""
