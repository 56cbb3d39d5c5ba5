"""Measures over models: what the rows of many evaluations say together.
"""
