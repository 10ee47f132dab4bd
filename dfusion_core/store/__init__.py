"""The artefact store: stage outputs that are complete or absent, resumable scratch, manifests, readers."""

from .inputs import Input as Input
from .paths import output as output
from .reading import StageData as StageData
from .reading import read_stage as read_stage
from .run import StageRun as StageRun
from .run import open_stage as open_stage
from .scratch import scratch_root as scratch_root
from .verify import Problem as Problem
from .verify import verify as verify
