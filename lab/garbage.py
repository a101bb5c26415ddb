"""How often the interpreter looks for unreachable cycles: rarely while modules are imported, as usual in a run.

Nearly all objects that importing makes stay. Looking through them again and again takes a fifth of the time of
importing torch.
"""

import gc

AS_USUAL = gc.get_threshold()
RARELY = (100_000, 20, 20)


def collect_rarely() -> None:
    gc.set_threshold(*RARELY)


def collect_as_usual() -> None:
    gc.set_threshold(*AS_USUAL)
