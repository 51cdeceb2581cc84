"""Measurements that can be run again: every figure in the docs comes from a command in here.

`python -m bench` lists them. Each starts the stack that it needs, prints what it found beside the
machine that it found it on, and leaves nothing running. `README.md` says how to read the figures.
"""
