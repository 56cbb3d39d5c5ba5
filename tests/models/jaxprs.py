"""A walk over a jaxpr that counts what its products cost, however often they run."""

from __future__ import annotations

import math

from jax.extend.core import ClosedJaxpr, Jaxpr


def jaxpr_flops(jaxpr: Jaxpr) -> int:
    """FLOPs of every dot_general in a jaxpr: scanned bodies times their length, a cond as its costliest branch."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (lhs_contracting, _), _ = eqn.params["dimension_numbers"]
            lhs, out = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
            total += 2 * math.prod(out) * math.prod(lhs[i] for i in lhs_contracting)
            continue
        if eqn.primitive.name == "ragged_dot_general":  # every row of the ragged side meets one group of the other
            (lhs_contracting, _), _ = eqn.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
            lhs, out = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
            ragged = eqn.params["ragged_dot_dimension_numbers"].lhs_ragged_dimensions
            rows = math.prod(out) * math.prod(lhs[i] for i in lhs_contracting)
            total += 2 * rows // (out[0] if set(ragged) <= set(lhs_contracting) else 1)
            continue
        if eqn.primitive.name == "conv_general_dilated":
            raise NotImplementedError("a convolution in the model: teach jaxpr_flops to count it")
        inner = [jaxpr_flops(sub) for value in eqn.params.values() for sub in subjaxprs(value)]
        if eqn.primitive.name == "scan":
            total += eqn.params["length"] * sum(inner)
        elif eqn.primitive.name == "cond":
            total += max(inner)
        elif eqn.primitive.name == "while" and sum(inner):
            raise NotImplementedError("a product inside a while loop, whose length no jaxpr tells")
        else:
            total += sum(inner)
    return total


def subjaxprs(value: object) -> list[Jaxpr]:
    """The jaxprs in one equation parameter (pjit, remat, scan, cond's tuple of branches, custom_vjp's call)."""
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [sub for item in value for sub in subjaxprs(item)]
    return []
