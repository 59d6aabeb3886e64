"""What an answer costs at the prices of an endpoint."""

from __future__ import annotations


def cost(
    prompt_tokens: int | None, output_tokens: int | None, price_in: float | None, price_out: float | None
) -> float | None:
    """(prompt tokens x price in + output tokens x price out) / 1,000,000, in the currency of the prices.

    None without prices, or without the server's counts. Prices are per million tokens; one that is missing is 0. Cached
    tokens are taken at the full price: an over-estimate where they are cheaper.
    """
    if price_in is None and price_out is None:
        return None
    if prompt_tokens is None or output_tokens is None:
        return None
    return (prompt_tokens * (price_in or 0.0) + output_tokens * (price_out or 0.0)) / 1_000_000
