"""Training: its stages (`training.stage.Stage`), and the one place where a config chooses between them."""

from training.context import TrainContext
from training.generator import GeneratorStage
from training.inverter import InverterStage
from training.stage import Stage
from training.structure import StructureStage
from utils.errors import UserError

STAGES = {"generator": GeneratorStage, "inverter": InverterStage, "structure": StructureStage}


def build(config: dict, context: TrainContext) -> Stage:
    """The stage that `train.stage` names. UserError if the config's numbers do not fit together."""
    falls, steps = config.train.optimizer.cosine_steps, config.train.steps
    if falls is not None and falls < steps:
        raise UserError(f"train.optimizer.cosine_steps: {falls} of {steps} train.steps: the last ones learn nothing")
    return STAGES[config.train.stage](config, context)
