"""params.yaml: its models, and reading it."""

from .explaining import explain as explain
from .loading import load_everything as load_everything
from .loading import load_params as load_params
from .loading import resolved as resolved
from .sections import Lora as Lora
from .sections import Model as Model
from .sections import Reward as Reward
from .sections import Sample as Sample
from .sections import Train as Train
from .selection import Params as Params
