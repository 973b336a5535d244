"""Neural worlds as Gymnasium environments. Importing this registers every installed world:

    import gymnasium
    import dsa_runtime.gym

    env = gymnasium.make("dsa/defend-the-line")
    envs = gymnasium.make_vec("dsa/defend-the-line", num_envs=8)            # one batch, not eight worlds
    env = gymnasium.make("dsa/world", world="path/to/my-world")             # any package

or, without the second import, `gymnasium.make("dsa_runtime.gym:dsa/defend-the-line")`. Needs `pip install
'dsa-runtime[gym]'`.
"""

try:
    import gymnasium  # noqa: F401
except ModuleNotFoundError:
    raise ImportError("dsa_runtime.gym needs gymnasium: pip install 'dsa-runtime[gym]'") from None

from .env import WorldEnv
from .registration import MAX_EPISODE_STEPS, register_worlds
from .reward import Reward
from .vector_env import WorldVectorEnv

register_worlds()

__all__ = ["MAX_EPISODE_STEPS", "Reward", "WorldEnv", "WorldVectorEnv", "register_worlds"]
