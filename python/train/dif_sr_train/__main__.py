"""`python -m dif_sr_train` is `dif-sr`."""

from . import main

main()
