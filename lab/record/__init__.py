"""The files of a run directory, as they are written. `Record` is for the loop. Modules that only read runs import
`files`, `status` and `environment`, which do not import torch."""
