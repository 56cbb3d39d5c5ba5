"""The flags that programs of the tests are compiled with: in less time than they are worth."""

from __future__ import annotations

from importlib import metadata

# Programs here run for milliseconds, and compiling them took most of the suite's time. LLVM's passes are left out, and
# one thread generates the code of a program. XLA has chosen operations and their order before.
QUICK_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
# Elementwise code is made by XLA's older emitter, straight into LLVM's form: MLIR, pass after pass for each fusion, was
# a third of the suite's time. jaxlib 0.12 has that emitter no more, and a flag that it does not know ends the process.
if metadata.version("jaxlib").startswith("0.10."):
    QUICK_FLAGS += " --xla_cpu_use_fusion_emitters=false"
