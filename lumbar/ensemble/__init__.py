"""From the members' probabilities to one table: averages, fitted weights, temperatures, stackers.

`average` blends without labels; `methods` holds every method by name; `nested` says honestly how good each is; `store`
keeps a fitted blend. scipy, LightGBM and XGBoost are imported where a fit needs them, and nothing imports torch.
"""
