"""Dead letters as the API reads them: questions to the audit view, answers, endpoints.

Start with `routes.py`, then `answers.py` (what is answered) and `queries.py` (what is asked of
PostgreSQL). Redriving and purging are writes: `ingest/dlq/`.
"""
