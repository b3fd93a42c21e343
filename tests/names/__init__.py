"""The table of names in docs/kernels.md: what each engine serves where, and why the rest are not.

`survey` asks the engines of the running kernel, `reasons` says why, `table` makes the section of the document.
scripts/names surveys this machine and both guests, keeps the answers as JSON beside this file, and fills the document.
"""
