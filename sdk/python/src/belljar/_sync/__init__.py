# Made by tools/make_sync.py from src/belljar/_async/__init__.py: change that.
