"""Training: the two stages, and the one place where a config chooses between them.

A stage has `networks`, `window`, `step`, `pictures`, `validate`, `export`, `state_dict` and `load_state_dict`;
`train.py` knows nothing else of it.
"""

from training.context import Context
from training.generator import GeneratorStage
from training.inverter import InverterStage

STAGES = {"generator": GeneratorStage, "inverter": InverterStage}


def build(config: dict, context: Context) -> GeneratorStage | InverterStage:
    """The stage that `train.stage` names. UserError if the config's numbers do not fit together."""
    return STAGES[config.train.stage](config, context)
