"""The database's migrations, shipped with the package and run by ``tropism.store.database``."""
