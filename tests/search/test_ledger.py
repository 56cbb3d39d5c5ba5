"""What the ledger says is what one counts by hand."""

from __future__ import annotations

from models import counts
from models.config import ModelConfig
from search.ledger import Cost, Ledger, Prices

MODEL = ModelConfig(vocab_size=11, d_model=8, n_layers=3, n_heads=2, n_kv_heads=1, d_ff=12)
WINDOWED = ModelConfig(vocab_size=11, d_model=8, n_layers=2, n_heads=2, d_ff=12, sliding_window=4)


def test_costs_add_up_per_problem_and_in_total() -> None:
    ledger = Ledger()
    ledger.charge(3, generated_tokens=5, flops=100, seconds=0.5)
    ledger.charge(3, generated_tokens=2, discarded_tokens=4, bytes=7)
    ledger.charge(1, prompt_tokens=9, verifier_tokens=1, flops=11)
    ledger.reach(3, 5)
    ledger.reach(3, 4)
    ledger.reach(1, 6)
    assert ledger[3] == Cost(generated_tokens=7, discarded_tokens=4, flops=100, bytes=7, depth=5, seconds=0.5)
    assert ledger[3].kept_tokens == 3 and ledger[99] == Cost()
    assert ledger.total == Cost(9, 0, 7, 4, 1, 111, 7, 6, 0.5)


def test_prices_of_ranges_are_sums_over_tokens() -> None:
    for model in (MODEL, WINDOWED):
        prices = Prices(model, 30)
        for context, n in ((1, 1), (4, 7), (20, 11)):
            expected = sum(counts.decode_flops(model, context + i) for i in range(n))
            assert prices.decode(context, n) == expected
        whole = prices.prefill(0, 13) + prices.prefill(13, 14) + prices.prefill(14, 20, scored=6)
        assert whole == counts.prefill_flops(model, 20, scored=6)


def test_the_bytes_of_a_suffix_are_its_reads_and_writes() -> None:
    # keys and values of 3 layers, 1 head of 4 dims, 4 bytes each; at each step everything so far and the new token
    assert Prices(MODEL, 30).cache_bytes == 2 * 3 * 4 * 4
    read, written = 5 + 6 + 7, 3
    assert Prices(MODEL, 30).suffix_bytes(4, 3) == 96 * (read + written)
