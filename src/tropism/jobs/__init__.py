"""Each stage alone, on files and folders: SFT, reward models, PPO, samples, evaluation. No study needed."""
