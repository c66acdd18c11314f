"""How fast a free address is found, how reliable "free" is, and how both grow; beside others who do the same.

    python -m bench [SCENARIO…] [--quick] [--out DIR]

A scenario (bench/scenarios/) says what varies, who takes part, and how one sample is taken. The harness takes the
samples in turn, writes them down with machine, versions and seeds, and draws the report.
"""
