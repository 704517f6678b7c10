"""From a request to a list of images, and from the list to labelled shards."""
