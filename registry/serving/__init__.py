"""Serving: follow a channel, answer by exactly one version at a time, say so over HTTP and in heartbeats."""
