"""What stands between our code and the machines: adapters, settings and the local stack.

Serves every room and knows none of them, only the domain and the words. One vendor, one file:
the file that is named for a vendor is the only one that imports it.
"""
