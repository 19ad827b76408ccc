"""The small latent diffusion model that the default profile paints with: SD1.5's classes, sizes for a CPU.

Importing this package loads nothing; `engine.mini.model.load_mini` loads the weights.
"""
