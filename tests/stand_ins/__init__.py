"""Random-weight files in the published formats, on which the unchanged loaders of the libraries are tested.

`python -m tests.stand_ins KIND FOLDER [--true-size]` writes them for a look or for a run on a GPU.
"""
