"""Does a finding lie where it was asked for?"""
