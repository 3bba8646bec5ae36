"""Steps of ``make release``: archives, the SBOM and the notes."""
