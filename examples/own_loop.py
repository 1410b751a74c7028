"""The loop from Python: make a study, run it, look at what came out.

    python examples/own_loop.py FOLDER            # the embedded world, as `tropism demo`
    python examples/own_loop.py FOLDER --small    # the same with everything small: a minute, and no good policy

Running it again on the same folder goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tropism import Study

SMALL = {
    "study.rounds": 1,
    "sft.steps": 20,
    "sft.demonstrations": 200,
    "feedback.queries_per_round": 40,
    "ppo.steps": 2,
    "ppo.batch_size": 16,
    "ppo.mini_batch_size": 8,
    "evaluation.prompts": 20,
}


def main() -> None:
    """Run the study of a folder and print what its rounds reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()

    if (arguments.folder / "study.toml").exists():
        study = Study.open(arguments.folder)
    else:
        study = Study.create(arguments.folder, recipe="tinytalk", overrides=SMALL if arguments.small else {})

    with study:
        status = study.run()
        for stage in status.stages:
            if stage.name.startswith("evaluate"):
                metrics = stage.values["metrics"]
                print(
                    f"round {stage.round}: correct {metrics['reference_correct']:.2f} -> {metrics['correct']:.2f},",
                    end=" ",
                )
                print(f"win rate {metrics['win_rate']:.3f}, KL {metrics['kl_sequence']:.2f} nats")
        first = study.samples(round=1)[0]
        print("prompt:", first["prompt"])
        for policy, output in first["outputs"].items():
            print(f"{policy}: {output['text']}")
        print("report:", study.report())


if __name__ == "__main__":
    main()
