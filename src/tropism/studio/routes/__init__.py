"""The addresses of the interface, one file for each group; docs/studio-api.md describes them."""
