"""What is wrong with a machine, an installation, an index or a cluster, found before it hurts.

`facts` looks, a subject a module, and each look may fail by itself; `checks` are pure functions
from facts to findings; `findings` says what a finding is; `examination` lists the checks and runs
them. A further check is one more function in a module of `checks` and one more line there.
"""
