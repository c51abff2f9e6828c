"""The paper's claims as experiments: one file for each claim, shared helpers, and `reproduce`, which runs a claim."""
