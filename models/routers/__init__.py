"""How tokens find their experts: one file per router, and `Router`, the union of them (`Experts.router`).

A router is a frozen dataclass with check(experts), which refuses fields of the experts that it does not read;
weights(experts, stream); route(experts, w, x, tokens) -> `Plan`, of x `[batch, seq, d_model]` and the ids;
slots(experts, tokens), slots per expert and stretch of so many tokens; and `causal`: whether a token's experts depend
on no later one.
"""

from __future__ import annotations

from models.routers.expert_choice import ExpertChoice
from models.routers.grouped import Grouped
from models.routers.hashed import Hashed
from models.routers.soft import Soft
from models.routers.top_k import TopK

Router = TopK | Grouped | Hashed | ExpertChoice | Soft

__all__ = ["ExpertChoice", "Grouped", "Hashed", "Router", "Soft", "TopK"]
