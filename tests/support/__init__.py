"""What several test files need: golden data, tiny models."""
