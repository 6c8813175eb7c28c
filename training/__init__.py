"""Training: the two stages, and the one place where a config chooses between them.

A stage is built from the config alone; `load_files` then reads the weights that it starts from. It has `networks`,
`window`, `conditions`, `step`, `pictures`, `validate`, `export`, `state_dict` and `load_state_dict`; `train.py` and
`training.run` know nothing else of it.
"""

from training.context import TrainContext
from training.generator import GeneratorStage
from training.inverter import InverterStage
from utils.errors import UserError

STAGES = {"generator": GeneratorStage, "inverter": InverterStage}


def build(config: dict, context: TrainContext) -> GeneratorStage | InverterStage:
    """The stage that `train.stage` names. UserError if the config's numbers do not fit together."""
    falls, steps = config.train.optimizer.cosine_steps, config.train.steps
    if falls is not None and falls < steps:
        raise UserError(f"train.optimizer.cosine_steps: {falls} of {steps} train.steps: the last ones learn nothing")
    return STAGES[config.train.stage](config, context)
