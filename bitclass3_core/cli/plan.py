"""``bitclass3 plan``: what a run would do and take, without writing anything."""

import json
from collections import Counter
from typing import Any

from bitclass3_core.cli.flags import Flags, PipelineFile, with_flags
from bitclass3_core.cli.groups import CONSTRAINTS, OUTPUT, PLUGINS, RUN, SOURCE, TARGET, TEXT
from bitclass3_core.files import human_bytes


@with_flags(SOURCE, TEXT, TARGET, CONSTRAINTS, PLUGINS, RUN, OUTPUT.only("json", "verbose"))
def plan(flags: Flags, pipeline: PipelineFile = None) -> None:
    """Say what a run would do: sizes, types where they are known, disk, memory, minutes. Writes nothing."""
    from bitclass3_core.runs.config_file import load_config
    from bitclass3_core.runs.plan import plan_values

    values = plan_values(load_config(pipeline, flags.keys, flags.plugins, flags.settings))
    if flags.json:
        print(json.dumps(values, indent=1))
    else:
        _print(values)


def _print(values: dict[str, Any]) -> None:
    print(f"source        {values['source']} ({values['architecture']}), {values['weights']:,} weights")
    print(f"tensors       {values['tensors']}, {values['quantizable_tensors']} of them quantizable")
    print(f"possible      {human_bytes(values['smallest_file_bytes'])} to {human_bytes(values['largest_file_bytes'])}")
    for line in values["constraints"]:
        print(f"constraint    {line}")
    print(f"to measure    {values['costs_to_measure']} costs on {values['threads']} threads")
    print(f"disk          at most {human_bytes(values['disk_bytes'])} (ours and what lies beside it)")
    print(f"memory        about {human_bytes(values['memory_bytes'])} for the model in torch")
    print(f"time          about {values['minutes']} minutes (a guess from typical kernel speeds)")
    if "allocation" in values:
        counts = Counter(values["allocation"].values())
        print(f"file          {values['file_bytes']:,} bytes: " + ", ".join(f"{n} x {q}" for q, n in counts.most_common()))
    else:
        print("types         not known before the costs are measured: bitclass3 run ... --until solve")
