"""Makes ``fixtures.py`` importable from every folder of tests."""
