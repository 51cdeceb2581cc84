"""The front door: HTTP bodies become commands on Kafka, and nothing is decided here.

Start with `routes.py` (the endpoints that write), then `requests.py` (bodies), `submit.py` (bodies
to commands) and `ports.py` (what the routes need from outside).
"""
