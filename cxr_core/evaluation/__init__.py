"""What synthetic images are worth."""
