"""Requests and the servers that answer them: transports, retries, fail-over, time-outs."""
