"""Objectives: what training minimises.

objective.py         what a part says: what a batch must hold, frozen models, loss, metrics, FLOPs
next_token.py        pre-training
completions.py       supervised fine-tuning on completions
distillation.py      a teacher's distributions
talking.py           messages between a teacher's hidden states and a student's
preference.py        DPO and its kin, on pairs
isolated.py          local losses of layers that no gradient crosses (AugLocal)
coverage.py          the chance that one of N samples is right
policy_gradient.py   PPO, GRPO, RLOO, Dr. GRPO, GSPO, ... as one form
advantage.py         its advantages
frozen.py            teachers and references from a trial or a Hugging Face folder
"""

from scaling.train.objectives.completions import Completions
from scaling.train.objectives.coverage import Coverage
from scaling.train.objectives.distillation import Distillation
from scaling.train.objectives.isolated import Isolated
from scaling.train.objectives.next_token import NextToken
from scaling.train.objectives.objective import Frozen, Objective, check_batch
from scaling.train.objectives.policy_gradient import PolicyGradient
from scaling.train.objectives.preference import Preference
from scaling.train.objectives.talking import Talking

AnyObjective = NextToken | Completions | Distillation | Talking | Isolated | Preference | Coverage | PolicyGradient

__all__ = [
    "AnyObjective",
    "Completions",
    "Coverage",
    "Distillation",
    "Frozen",
    "Isolated",
    "NextToken",
    "Objective",
    "PolicyGradient",
    "Preference",
    "Talking",
    "check_batch",
]
