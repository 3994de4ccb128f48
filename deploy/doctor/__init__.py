"""What is wrong with this machine's set-up, found before it hurts.

`facts` reads the machine, `checks` are pure functions from facts to findings, `findings` says what
a finding is. A further check is one more function in `checks.CHECKS`.
"""
