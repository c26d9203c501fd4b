"""``bitclass3 doctor``: what this machine has, and what works without the rest."""

import json

from bitclass3_core.cli.flags import Flags, with_flags
from bitclass3_core.cli.groups import OUTPUT


@with_flags(OUTPUT.only("json"))
def doctor(flags: Flags) -> None:
    """Say what was found on this machine, and what works without the rest."""
    from bitclass3_core.toolchain.doctor import checks, facts, require

    found = checks()
    if flags.json:
        rows = {check.name: {"ok": check.ok, "detail": check.detail} for check in found}
        print(json.dumps({"checks": rows, **facts()}, indent=1))
    else:
        for check in found:
            print(f"{'ok     ' if check.ok else 'missing'}  {check.name}: {check.detail}")
        for name, detail in facts().items():
            print(f"         {name}: {detail}")
    require(found)
