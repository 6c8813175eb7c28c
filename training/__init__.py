"""Training: the two stages, and the one place where a config chooses between them.

A stage is built from the config alone; `load_files` then reads the weights that it starts from. It has `networks`,
`window`, `conditions`, `step`, `pictures`, `validate`, `export`, `state_dict` and `load_state_dict`; `train.py` and
`training.run` know nothing else of it.
"""

from training.context import Context
from training.generator import GeneratorStage
from training.inverter import InverterStage

STAGES = {"generator": GeneratorStage, "inverter": InverterStage}


def build(config: dict, context: Context) -> GeneratorStage | InverterStage:
    """The stage that `train.stage` names. UserError if the config's numbers do not fit together."""
    return STAGES[config.train.stage](config, context)
