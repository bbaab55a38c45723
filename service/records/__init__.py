"""What the system remembers: rows and archived files; the only room with SQL."""
