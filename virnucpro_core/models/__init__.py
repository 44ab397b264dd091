"""The neural networks and what runs them. The only part of the core that needs torch; import its modules."""

import os

# torch's threads wait for each other hundreds of times a batch, by default in a loop that keeps the core busy. Where
# other programs want the cores, whole time slices go by in it: `predict` then took two to four times the processor time
# of one thread, and longer. GNU's OpenMP, which torch has on Linux, reads this once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
