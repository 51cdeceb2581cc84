"""Dead letters as callers deal with them: run again, with or without changes, or purged.

Start with `routes.py`, then `requests.py` (bodies) and `redrive.py` (letters to commands). Reading
them is `projections/dlq/`.
"""
