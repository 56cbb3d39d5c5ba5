"""The stages of benchmarks/accelerator.py: each module gives the cases of a stage, by name, at full or toy size."""
