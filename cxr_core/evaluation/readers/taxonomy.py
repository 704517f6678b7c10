"""What the page of a reading test and those who score it share: the form of its key, and what may be wrong."""

FORMAT = 1
"""Of a key."""

ERRORS = {
    "anatomy": "anatomy that cannot be",
    "bones": "ribs or bones doubled, broken off or missing",
    "vessels": "vessels or lung markings that do not branch",
    "devices": "devices, lines or letters garbled",
    "finding": "a finding that does not look like itself",
    "texture": "blur, noise or pattern of no detector",
    "other": "something else",
}
"""What may be wrong with an image: code -> words on the page."""
