"""Settings as every command and study reads them: sections, overrides, TOML, paths."""
