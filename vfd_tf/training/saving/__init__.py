"""What a training leaves on disk, and what it goes back to when it diverges."""
