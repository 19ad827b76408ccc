"""The programs that make the small model's weights again. See docs/mini-model.md for the order and the commands."""
