"""docs/models.md has the table of parts that the declarations give; python -m tests.models.test_parts_docs makes it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from models.channels import Dense, Experts, ProductKeys, Ternary
from models.config import Layer, ModelConfig
from models.huggingface.families import FAMILIES
from models.mixers import (
    MLGRU,
    MLSTM,
    RWKV7,
    Attention,
    ChunkExperts,
    Cross,
    Delta,
    Factored,
    GatedMemory,
    HeadSpans,
    Latent,
    Linear,
    Mamba2,
    Prefixed,
    ShiftedWindows,
    Sinks,
    Streamed,
    ThirdOrder,
)
from models.presets import LLAMA_1B
from models.weight import walk
from models.wiring import Shared, Streams, Wiring

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- parts -->", "<!-- end of parts -->"
CONTEXT = 4096  # tokens of a sequence trained on, and before a token that is decoded
LATENT = Latent(rank=512, key_dim=128, rotary_dim=64, value_dim=128)
SHAPES: dict[str, Layer] = {  # one layer of a model of d_model 2048 in bfloat16
    "`Attention()`, 16 heads": Layer(Attention(kv_heads=16), None),
    "`Attention(kv_heads=4)`": Layer(Attention(kv_heads=4), None),
    "`Attention(kv_heads=4, window=1024)`": Layer(Attention(kv_heads=4, window=1024), None),
    "`Sinks(kv_heads=4, window=1024)`": Layer(Sinks(kv_heads=4, window=1024), None),
    "`Prefixed(kv_heads=4, prefix=16)`": Layer(Prefixed(kv_heads=4), None),
    "`HeadSpans(windows=(64, 256, 1024, 4096))`": Layer(HeadSpans(kv_heads=4, windows=(64, 256, 1024, 4096)), None),
    "`ShiftedWindows(kv_heads=4, window=1024)`": Layer(ShiftedWindows(kv_heads=4, window=1024), None),
    "`Latent(rank=512)`": Layer(LATENT, None),
    "`Factored(head_dim=256, query_rank=512)`": Layer(Factored(head_dim=256, query_rank=512), None),
    "`Delta(value_heads=32)`": Layer(Delta(value_heads=32), None),
    "`Delta(decay='channel', block=16)`": Layer(Delta(decay="channel", block=16), None),
    "`Linear(features=16)`": Layer(Linear(), None),
    "`ThirdOrder(features=8)`": Layer(ThirdOrder(features=8), None),
    "`Mamba2()`": Layer(Mamba2(), None),
    "`Streamed(streams=4)`, `kv_heads=4`": Layer(Streamed(kv_heads=4, streams=4), None),
    "`Cross(kv_heads=4)`": Layer(Cross(kv_heads=4), None),
    "`GatedMemory()`": Layer(GatedMemory(), None),
    "`MLGRU()`": Layer(MLGRU(), None),
    "`MLSTM(heads=4, value_dim=512)`": Layer(MLSTM(4, value_dim=512), None),
    "`RWKV7(heads=32, head_dim=64)`": Layer(RWKV7(32, 64), None),
    "`ChunkExperts(Experts(64, 8, 704))`": Layer(ChunkExperts(Experts(64, 8, 704, dispatch="dropless")), None),
    "`Dense()`": Layer(Attention(), Dense()),
    "`Ternary()`": Layer(Attention(), Ternary()),
    "`ProductKeys(keys=256)`": Layer(Attention(), ProductKeys(keys=256)),
    "`Experts(64, 8, 704, shared=2)`": Layer(Attention(), Experts(64, 8, 704, shared=2)),
    "`Experts(64, 8, 2808, bottleneck=512)`": Layer(Attention(), Experts(64, 8, 2808, bottleneck=512)),
}
AXES = ("data", "fsdp", "stage", "expert", "context", "tensor")


def one(layer: Layer) -> ModelConfig:
    """A model of that one layer."""
    streams = getattr(layer.mixer, "streams", 1)
    wiring: Wiring | None = Streams(streams) if streams > 1 else None
    lenders: tuple[Layer, ...] = ()
    if hasattr(layer.mixer, "takes"):  # of layers before it, which are not counted
        wiring, lenders = Shared(), (Layer(Mamba2(), None), Layer(Attention(kv_heads=4), None))
    pattern = (*lenders, layer)
    return dataclasses.replace(
        LLAMA_1B, n_layers=len(pattern), n_kv_heads=None, pattern=pattern, scan_layers=False, wiring=wiring
    )


def row(name: str, layer: Layer) -> str:
    """What a part weighs, keeps and costs."""
    config, stream = one(layer), one(layer).stream
    part = layer.parts[-1]
    flops = config.wired.copies * sum(w.flops_per_token for _, w in walk(part.weights(stream)))
    size = sum(w.size for _, w in walk(part.weights(stream)))
    trained = flops + part.flops(stream, CONTEXT) // CONTEXT
    decoded = flops + (part.flops(stream, 1, CONTEXT - 1) if part is layer.mixer else part.flops(stream, 1))
    kept = part.kept(stream).values() if part is layer.mixer else ()
    token, state = (sum(k.bytes(config.dtype) for k in kept if k.per == per) for per in ("token", "row"))
    sent = isinstance(part, Experts | ChunkExperts)
    axes = [axis for axis in AXES if axis not in part.undivided and (axis != "expert" or sent)]
    cells = name, f"{size / 1e6:.1f}M", f"{token:,}", f"{state:,}", f"{trained / 1e6:.1f}", f"{decoded / 1e6:.1f}"
    return f"| {' | '.join(cells)} | {' '.join(axes)} |"


def table() -> str:
    """The table, and how many families a Hugging Face folder may be of."""
    head = "| part | weights | bytes per token | bytes per row | MFLOPs trained | MFLOPs decoded | mesh axes |"
    lines = [head, "|---|---|---|---|---|---|---|", *(row(name, layer) for name, layer in SHAPES.items())]
    families = f"Hugging Face folders of {len(FAMILIES)} families are read and written: [inference.md](inference.md)."
    return "\n".join([*lines, "", families])


def page(text: str) -> str:
    """The page with today's table."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


def test_the_page_has_the_table_that_the_declarations_give() -> None:
    text = PAGE.read_text()
    assert text == page(text), "run python -m tests.models.test_parts_docs"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
