"""What a person sees: pictures, progress bars and error messages."""
