"""Maths that several mechanisms share."""
