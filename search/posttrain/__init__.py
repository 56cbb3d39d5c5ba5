"""Post-training: batches that depend on the parameters, because the model being trained has written them.

config.py     PostTrainConfig: a run as a trial, whose id is a hash of its config
episodes.py   completions in which an environment may answer, turn by turn
filters.py    which of the completions that were drawn a batch keeps
shaping.py    a verifier's reward changed by how long a completion is, and by what it repeats
rollouts.py   groups of completions with verified rewards, as a batch of scaling.train.objectives.PolicyGradient
progress.py   what each segment of a completion adds to the chance of a right answer
handover.py   rollouts that another process draws ahead of the trainer, from a policy at most so many versions old
rejection.py  sets of right answers with a target for every query
hints.py      traces with calls of a tool in the place of what they worked out
splice.py     thoughts without the segments that completions do not need
refine.py     calls that are written again until they stay, and what that is learned from
selection.py  hard problems, and sets of as many tokens
loop.py       rollout, update, checkpoint: a run that goes on from any of them with the same bits
measure.py    votes and coverage on held-out problems, with what they cost
trial.py      what a run starts from, its price, its folder, its row
report.py     accuracy against all the FLOPs that it took
"""

from search.posttrain.config import MeasureConfig, PostTrainConfig, RolloutConfig
from search.posttrain.loop import PostTraining
from search.posttrain.rollouts import Rollouts

__all__ = ["MeasureConfig", "PostTrainConfig", "PostTraining", "RolloutConfig", "Rollouts"]
