"""Serving: follow a channel, answer each request with exactly one version, over HTTP, and write heartbeats."""
