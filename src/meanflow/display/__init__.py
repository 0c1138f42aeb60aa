"""Output for a person: pictures, progress bars and error messages."""
