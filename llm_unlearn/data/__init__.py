"""Where rows come from and which role each plays: sources, splits, counterfactual rows.  Nothing here imports torch."""
