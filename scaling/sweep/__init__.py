"""Sweeps: a list of trials, stacked by shape, run to one table.

trial.py        Trial: one resolved run; its id
config.py       SweepConfig: a base trial, points, the prediction to test
combinators.py  grid, together, chain, product, ...: lists of points
isoflop.py      budgets x widths -> points
stack.py        trials of one shape in one program
queue.py        the order of stacks, and how long they take
run.py          run one stack
lease.py        who works on what
card.py         what a trial took
directory.py    what is on disk
results.py      one row per trial, one table
heldout.py      the run that tests the law
classes.py      tokens of a run that may take so many seconds of a device
"""
