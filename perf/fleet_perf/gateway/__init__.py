"""Measures the gateway: what it costs a warm request, what a cold one waits, what clients see."""
