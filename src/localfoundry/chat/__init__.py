"""One chat with one OpenAI-compatible endpoint: how it is reached, what it sends, and what goes wrong there.

Below everything that asks models over HTTP to measure or to judge them, so that both are timed by one clock and told of
failures in the same words.
"""
