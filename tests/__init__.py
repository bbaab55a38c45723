"""The tests, from rules about the code to whole studies through a real PACS."""
