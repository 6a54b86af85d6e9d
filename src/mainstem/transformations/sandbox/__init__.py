"""Where user code runs: one process a version, behind Landlock, seccomp and rlimits."""
