"""From the members' probabilities to one table: averages, fitted weights, temperatures, stackers.

`average` blends without labels; `methods` holds every method by name; `nested` says honestly how good each is; `store`
keeps a fitted blend. What needs scipy, LightGBM or XGBoost is imported from where it lies, and nothing imports torch.
"""
