"""The face: command line, Python client, and the composition of services.

The only room that knows all others. `cli.py` is where a person comes in, `dev.py` runs the whole
system on one machine; what a service is made of is said where `foldline serve` starts it.
"""
