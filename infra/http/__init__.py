"""What every HTTP service of ours shares: the shape of errors, request ids, position tokens.

`errors.py` has the shape and the exception, `app.py` the application that answers in it,
`tokens.py` the position tokens that writes answer and reads can wait for.
"""
