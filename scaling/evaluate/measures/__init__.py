"""Measures over models: what the rows of many evaluations say together. This file is the table of contents.

breakthrough.py   breakthroughness and linearity over sizes
signal.py         what a benchmark tells during training
item_response.py  abilities and difficulties; a new version of a test from a few models
leakage.py        test items in a training text
correlation.py    against compression, along the chain of probabilities, over training; intervals over runs
inverse.py        scores that fall with size
specialisation.py what a specialist gained on its domain and lost on others
"""
