"""The targets of a run, of which one is given: how large a file may be, or how far it may be from the source.

A new one is a name here, an option of the plugin that turns it into bytes (``plugins/bitclass3_fixed.py``), and a flag in
``cli/groups.py``.
"""

OWN_TARGETS = ("level", "target_kld")  # keys of ``[budget]`` itself
FIXED_TARGETS = ("target_bpw", "target_size", "match_stock", "match_file", "fit_vram")  # options of the budget plugin
TARGETS = (*OWN_TARGETS, *FIXED_TARGETS)
OF_VRAM = ("ctx", "kv_type", "vram_reserve")  # what goes with ``fit_vram``
