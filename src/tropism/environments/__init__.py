"""Gymnasium environments: made by id, stepped many at once, fixed in length, replayed, rendered. Knows no policy."""
