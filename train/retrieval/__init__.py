"""Text-video retrieval: one file a system."""
