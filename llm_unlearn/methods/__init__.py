"""Unlearning methods: one file each, named after the method."""
