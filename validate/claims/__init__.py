"""Published claims as data: what a paper says, what gemvane simulates in that setting, and what was assumed.

A page (`*.yaml` here, or a file of yours) holds claims, the experiments and axes that they share, and plots. `page.py` says what one may
say, `value.py` which figures there are. `question.py` asks for a value in the settings that axes span, `bench.py` runs each experiment
once, `scoreboard.py` sets the answers beside the claimed figures, and `plots.py` draws them.
"""
