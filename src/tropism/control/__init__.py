"""The control domain: agents in Gymnasium environments, on the true reward or on one learned from comparisons."""
