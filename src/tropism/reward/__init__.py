"""Reward models, the part that no domain owns: evidence from judgements, ensembles, fitting, assessment.

A domain brings the network (a ``fitting.ScoreModel``) and its features. Left out: cost models and process rewards.
"""
