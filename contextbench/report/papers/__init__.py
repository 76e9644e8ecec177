"""Papers' tables, published beside measured."""
