"""Data that people already have: read in many formats into one form, and written back without loss."""
