"""What recorded samples say: curves, votes, laws, costs. This file is the package's table of contents."""

from search.metrics.cost import eflops as eflops  # FLOPs and memory traffic at one price, on any device
from search.metrics.cost import intensity as intensity  # FLOP per byte of a device
from search.metrics.cost import outcomes as outcomes  # problems x budgets of one strategy
from search.metrics.cost import sample_efficiency as sample_efficiency  # how much less a strategy needs
from search.metrics.coverage import coverage_curve as coverage_curve  # mean pass@k
from search.metrics.coverage import fit_coverage as fit_coverage  # its two laws, tested beyond the fitted k
from search.metrics.coverage import fit_curve as fit_curve  # any law of a curve, intervals over problems
from search.metrics.coverage import fit_saturation as fit_saturation  # where more samples stop paying
from search.metrics.curves import curve as curve  # means over problems with intervals
from search.metrics.diversity import idea_diversity as idea_diversity  # chance that two samples differ in idea
from search.metrics.replay import replay as replay  # published results, recomputed
from search.metrics.samples import Samples as Samples  # what was drawn and how it was judged
from search.metrics.selection import best_of_curve as best_of_curve  # best of k by score, exact
from search.metrics.selection import best_of_k as best_of_k  # the same for one problem
from search.metrics.selection import genrm_scores as genrm_scores  # scores from a verifier's votes
from search.metrics.selection import selection_results as selection_results  # all of these per problem
from search.metrics.selection import vote as vote  # majority and weighted vote of one list
from search.metrics.selection import vote_curve as vote_curve  # votes of k, with standard errors
from search.metrics.selection import vote_limit as vote_limit  # where votes level off
from search.metrics.stopping import adaptive_consistency as adaptive_consistency  # stop when the leader is settled
from search.metrics.stopping import early_stopping as early_stopping  # stop at a unanimous window
from search.metrics.stopping import short_m_curve as short_m_curve  # vote of the m chains that end first
from search.metrics.stopping import stopped as stopped  # what a stopping rule gets and uses
from search.metrics.verification import genrm_grid as genrm_grid  # solutions against verdicts
from search.metrics.verification import verified_curve as verified_curve  # resampling until acceptance, its ceiling
