"""The demo: real machine-learning work on a stack of its own. Start with `runner.py`.

`jobs.py` says what is submitted, `proof.py` what must be true at the end; the other modules are
the workloads, each run by an agent as `python -m foldline.demo.<name>`. Workloads import nothing
of Foldline but one another: they are what a user's own scripts would be.
"""
