"""The soak: hosts whose containers come and go while cables, engines, agents, disks and neighbours fail, from a seed.

`plan` says what will happen, and `acts` does it in a `world`. Meanwhile the `referee`, which is no part of arpipam,
asks the wire, and the `observers` ask engines and kernels. From what they have noted `judge` makes the report.

    python -m launcher.lab.soak --minutes 10 --seed 7
"""
