"""Calibration: the recall that an index's settings give, measured against exact search.

`questions` makes the queries, `measure` searches with them, `choose` decides what to promise, `run`
does all of it and commits the new version, `draw` shows the curve.
"""
