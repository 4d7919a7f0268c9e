"""SASL mechanisms that have messages of their own."""
