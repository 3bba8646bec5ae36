"""Cloud Hypervisor as a machine's VMM."""
