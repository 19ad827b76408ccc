"""What the bot and the worker say to each other: plain data, importable without queue, torch or database."""
