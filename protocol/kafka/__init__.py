"""Kafka's formats: pure codecs."""
