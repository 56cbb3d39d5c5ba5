"""What a run directory shows: a self-contained report.html, and figures that notebooks can use on their own.

scaling.report.write("runs/quickstart")                     # report.html and figures/*.png
scaling.report.plot_isoflops(scaling.load("runs/quickstart"))
"""

from scaling.report.budgets import budgets as budgets  # which compute budget each run belongs to
from scaling.report.plots import plot_frontier as plot_frontier  # N*(C) and D*(C)
from scaling.report.plots import plot_intervals as plot_intervals  # each interval around its prediction
from scaling.report.plots import plot_isoflops as plot_isoflops  # loss against N at equal compute
from scaling.report.plots import plot_predictions as plot_predictions  # predicted against measured
from scaling.report.plots import plot_residuals as plot_residuals  # against N, D, C, and quantiles
from scaling.report.plots import plot_scaling as plot_scaling  # loss against compute with its interval
from scaling.report.plots import plot_surface as plot_surface  # contours of L(N, D) with the runs
from scaling.report.plots import plot_training as plot_training  # training curves by size
from scaling.report.record import RunRecord as RunRecord  # what a report reads, damaged parts as notes
from scaling.report.record import read as read  # a run directory as RunRecord
from scaling.report.report import Part as Part  # what another package adds to a report
from scaling.report.report import plot_overview as plot_overview  # the wide picture of a README
from scaling.report.report import write as write  # report.html and figures/*.png
from scaling.report.style import theme as theme  # the report's light and dark looks, as a context
