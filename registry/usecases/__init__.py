"""What people do with a registry, one story a module; api.py hands on to them."""
