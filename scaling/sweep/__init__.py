"""Sweeps: a list of trials, stacked by shape, run to one table.

    trial.py        Trial: one resolved run; its id
    config.py       SweepConfig: a base trial, points, the prediction to test
    combinators.py  grid, together, chain, product, ...: lists of points
    isoflop.py      budgets x widths -> points
    stack.py        trials of one shape in one program
    run.py          run one stack
    directory.py    what is on disk
    results.py      one row per trial, one table
    heldout.py      the run that tests the law
"""
