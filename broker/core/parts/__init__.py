"""The parts that are packages of their own."""
