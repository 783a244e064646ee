"""Model folders made before codes could end jointly with the last one load as they were."""

import dataclasses

from vqnmt.models import LatentConfig
from vqnmt.translate.pretrained import VqnmtConfig, VqnmtForConditionalGeneration


def test_students_of_former_runs_keep_the_end_of_their_codes() -> None:
    """Folders that do not say `joint_end` have an end of its own; a new student has none."""
    settings = dataclasses.asdict(LatentConfig())
    del settings["joint_end"]
    old, new = (
        VqnmtForConditionalGeneration(VqnmtConfig(settings=one, vocabulary_size=9)).model
        for one in (settings, settings | {"joint_end": True})
    )
    codes = old.quantizer.codebook_size
    assert (old.config.joint_end, old.code_output.out_features) == (False, codes + 1)
    assert (new.config.joint_end, new.code_output.out_features) == (True, 2 * codes)
