"""Published claims as data: what a paper says, what gemvane simulates in that setting, and what was assumed.

A page (`*.yaml` here, or a file of yours) holds claims; `page.py` says what one may say, `value.py` which figures there are.
"""
