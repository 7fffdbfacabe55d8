"""The founding papers' own claims on classifiers, at the scale of a small machine: what eval/papers.py does.

corpora   rows of four public data sets, read from a local folder
plan      what is run, as data: data sets and models, scenarios, methods with their settings
models    targets and golds: trained once, kept by what they were made from
cells     one method on one scenario, measured beside before and gold
claims    what the papers say, and whether it holds here
pages     the table and the picture
"""
