"""All laws by name, for command lines and saved fits; in code, import the law itself."""

from __future__ import annotations

from scaling.fitting.law import Law, register
from scaling.laws import (
    annealing,
    broken,
    coverage,
    critical_batch,
    data_constrained,
    data_filtering,
    deepseek,
    densing,
    difficulty,
    downstream,
    farseer,
    gemstones,
    general,
    generative_verifier,
    hestness,
    imperfect_verifier,
    kaplan,
    kinetics,
    knowledge_capacity,
    mixtures,
    moe,
    multi_power,
    observational,
    overtraining,
    parscale,
    pass_until,
    power,
    precision,
    retrieval,
    rl_compute,
    saturation,
    sparse,
    speculative,
    step_law,
    testtime,
)
from scaling.laws.chinchilla import CHINCHILLA

CATALOGUE: tuple[Law, ...] = (
    CHINCHILLA, *general.LAWS, *kaplan.LAWS, *hestness.LAWS, *critical_batch.LAWS, *overtraining.LAWS,
    *gemstones.LAWS, *farseer.LAWS, *data_constrained.LAWS, *data_filtering.LAWS, *mixtures.LAWS, *moe.LAWS,
    *sparse.LAWS, *precision.LAWS, *parscale.LAWS, *broken.LAWS, *annealing.LAWS, *multi_power.LAWS, *power.LAWS,
    *step_law.LAWS, *deepseek.LAWS,
    # scores on tasks
    *downstream.LAWS, *observational.LAWS, *pass_until.LAWS, *difficulty.LAWS, *knowledge_capacity.LAWS, *densing.LAWS,
    # compute spent at inference
    *coverage.LAWS, *imperfect_verifier.LAWS, *generative_verifier.LAWS, *saturation.LAWS, *retrieval.LAWS,
    *speculative.LAWS, *kinetics.LAWS, *rl_compute.LAWS, *testtime.LAWS,
)


register(CATALOGUE)
