"""Where a finding is: regions of the image, boxes put into them, and both in words and back."""
