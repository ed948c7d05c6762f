"""fexport: builds bundles of verified artefacts from published weights (needs torch), and the command line."""
