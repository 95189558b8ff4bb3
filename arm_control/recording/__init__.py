"""Recordings in MCAP: writing, reading, indexing, recovering, and identifying delay and lag from them."""
