"""Verifiers and scorers: how good a completion is, in (0, 1). This file is the table of contents.

catalogue.py    all that can be named, with their fields
scorer.py       on the device, of particles: the policy's value head, likelihoods
value_head.py   what the policy's own hidden states say of a prefix
reward_model.py a model of its own, of steps or of outcomes; reward_training.py trains it
reward_folder.py  such a model as a folder, of ours or of Hugging Face
generative.py   a language model that writes judgements, which vote
verifier.py     on the host, of texts: Verifier, and `judge`, which a verifier that fails cannot stop
oracle.py       what the task knows: exact values, noisy, adversarial
imperfect.py    any verifier with false positives and false negatives
program.py      programs judged by what they print, in a sandbox
function.py     a function of the user's, in a process of its own (serve.py)
sandbox.py      run an untrusted program; confine.py is the part that runs inside
"""
